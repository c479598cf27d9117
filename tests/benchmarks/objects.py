"""Publish and pull of 1 GB through tasks/objects/s3.py, against `aws s3 cp` on the same server in the same run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rows import Row

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # this is run as a script, and takes the servers from the tests

from tasks.digests import digest_file  # noqa: E402
from tests.radosgw import CannotServeError, serve_radosgw  # noqa: E402
from tests.s3_servers import BUCKET, aws_settings, make_bucket, serve_moto  # noqa: E402

SIZE_BYTES = 1_000_000_000
ROUNDS = 3
LEAST_RATE = 0.9
MOST_BYTES = 300_000_000
KEY = "bench/plan"
# A process of its own, as `aws` is: its wall time holds the start of Python, and its peak memory is its own.
OURS = """
import resource, sys
from pathlib import Path
from tasks.objects.address import open_objects
way, store, key, path, digest = sys.argv[1:]
objects = open_objects(store)
getattr(objects, way)(key, Path(path), digest, lambda done, total: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@dataclass
class Timed:
    """Wall times in seconds of each way and side, and the largest peak memory of ours in bytes."""

    seconds: dict[str, list[float]]
    peak_bytes: int = 0


def objects(scratch: Path, size_bytes: int = SIZE_BYTES) -> list[Row]:
    """Rates and memory of upload and download, medians of three, A-B-A-B. SHA-256 is checked on our side alone.

    Args:
        scratch: an empty folder with room for three files of `size_bytes`, and awscli in an environment of its own.
        size_bytes: of the file.
    """
    aws = install_aws(scratch / "awscli")
    with ExitStack() as servers:
        try:
            server, endpoint = "radosgw", servers.enter_context(serve_radosgw(scratch / "radosgw"))
        except CannotServeError:
            server, endpoint = "moto", servers.enter_context(serve_moto())
        make_bucket(endpoint)
        timed = measure(scratch, aws, endpoint, size_bytes)
    rows = [rate_row(way, server, timed, size_bytes) for way in ("upload", "download")]
    peak = f"{timed.peak_bytes / 1e6:.0f} MB"
    limit = f"<= {MOST_BYTES / 1e6:.0f} MB"
    return [*rows, Row("peak memory of both", peak, limit, timed.peak_bytes <= MOST_BYTES)]


def install_aws(folder: Path) -> Path:
    """The `aws` command, which wants other versions of our packages."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "awscli"], check=True)
    return folder / "bin" / "aws"


def measure(scratch: Path, aws: Path, endpoint: str, size_bytes: int) -> Timed:
    plan, pulled = scratch / "plan", scratch / "pulled"
    with plan.open("wb") as stream:
        for start in range(0, size_bytes, 1 << 20):
            stream.write(os.urandom(min(1 << 20, size_bytes - start)))
    environment = os.environ | aws_settings(endpoint) | {"PYTHONPATH": str(REPOSITORY)}
    store, digest = f"s3://{BUCKET}", digest_file(plan)[0]
    ours = [sys.executable, "-c", OURS]
    commands = {
        "aws upload": [str(aws), "s3", "cp", "--quiet", str(plan), f"{store}/{KEY}"],
        "our upload": [*ours, "upload", store, KEY, str(plan), digest],
        "aws download": [str(aws), "s3", "cp", "--quiet", f"{store}/{KEY}", str(pulled)],
        "our download": [*ours, "download", store, KEY, str(pulled), digest],
    }
    remove = [str(aws), "s3", "rm", "--quiet", f"{store}/{KEY}"]
    timed = Timed({name: [] for name in commands})
    for _ in range(ROUNDS):
        for name, command in commands.items():
            if name.endswith("upload"):
                subprocess.run(remove, check=True, env=environment)
            pulled.unlink(missing_ok=True)
            os.sync()  # nobody pays for what another left unwritten
            started = time.perf_counter()
            done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            timed.seconds[name].append(time.perf_counter() - started)
            timed.peak_bytes = max(timed.peak_bytes, int(done.stdout or 0))
    return timed


def rate_row(way: str, server: str, timed: Timed, size_bytes: int) -> Row:
    aws, ours = (statistics.median(timed.seconds[f"{who} {way}"]) for who in ("aws", "our"))
    what = f"{way} of {size_bytes / 1e9:.1f} GB to {server}, MB/s against aws s3 cp"
    measured = f"{size_bytes / ours / 1e6:.0f} / {size_bytes / aws / 1e6:.0f} = {aws / ours:.2f}"
    return Row(what, measured, f">= {LEAST_RATE}", aws / ours >= LEAST_RATE)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in objects(Path(temporary)):
            print(row)
