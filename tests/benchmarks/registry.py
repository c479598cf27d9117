"""Publish and pull of an engine with a plan of 1 GB, against `aws s3 cp` on the same server in the same run."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from rows import Row

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # this is run as a script, and takes the servers from the tests

from tasks.objects.location import open_objects  # noqa: E402
from tasks.registry.channels import next_move  # noqa: E402
from tasks.registry.moves import ChannelAddress, ChannelName  # noqa: E402
from tasks.registry.registry import Registry  # noqa: E402
from tasks.registry.signing import Signing  # noqa: E402
from tasks.store.local import LocalStore  # noqa: E402
from tests.radosgw import CannotServeError, serve_radosgw  # noqa: E402
from tests.s3_servers import BUCKET, aws_settings, make_bucket, serve_moto  # noqa: E402
from tests.tasks.tiny import lay_out, make_outcome, manifest_of  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.records import EngineManifest

SIZE_BYTES = 1_000_000_000
ROUNDS = 5
LEAST_RATE = 0.9
MOST_BYTES = 300_000_000
ADDRESS = f"s3://{BUCKET}/registry"
COPY = f"s3://{BUCKET}/copy"
# Processes of their own, as `aws` is: their wall time holds the start of Python, and their peak memory is their own.
COMMON = """
import json, resource, sys
from pathlib import Path
from tasks.objects.location import open_objects
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
registry = Registry(open_objects(sys.argv[1]), Signing())
"""
PUBLISH = """
from tasks.records import EngineManifest
manifest = EngineManifest.model_validate_json(Path(sys.argv[2]).read_bytes())
assert registry.engines.publish(manifest, {digest: Path(path) for digest, path in json.loads(sys.argv[3]).items()})
"""
PULL = """
from tasks.release.pull import pull_engine
from tasks.release.serving_folder import ServingFolder
from tasks.registry.moves import ChannelAddress, ChannelName
address = ChannelAddress("tiny", "cpu", ChannelName.PRODUCTION)
assert pull_engine(registry, ServingFolder(Path(sys.argv[2])), address, wait_s=1).fetched
"""
PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


@dataclass
class Timed:
    """Wall times in seconds of each way and side, and the largest peak memory of ours in bytes."""

    seconds: dict[str, list[float]]
    peak_bytes: int = 0


@dataclass(frozen=True)
class Engine:
    """What is published: its manifest, its files by artifact, and its plan."""

    manifest: EngineManifest
    folders: dict[str, Path]
    plan: Path


def registry(scratch: Path, size_bytes: int = SIZE_BYTES) -> list[Row]:
    """Rates and memory of publish and pull, medians of five, in turns. SHA-256 is checked on our side alone.

    Args:
        scratch: an empty folder with room for three plans, and awscli in an environment of its own.
        size_bytes: of the plan.
    """
    aws = install_aws(scratch / "awscli")
    with ExitStack() as servers:
        try:
            server, endpoint = "radosgw", servers.enter_context(serve_radosgw(scratch / "radosgw"))
        except CannotServeError:
            server, endpoint = "moto", servers.enter_context(serve_moto())
        make_bucket(endpoint)
        servers.enter_context(patch.dict(os.environ, aws_settings(endpoint)))
        timed = measure(scratch, aws, make_engine(scratch, size_bytes))
    rows = [rate_row(way, server, timed, size_bytes) for way in ("publish", "pull")]
    rows.append(rate_row("pull", server, timed, size_bytes, against="aws, synced"))
    peak = f"{timed.peak_bytes / 1e6:.0f} MB"
    limit = f"<= {MOST_BYTES / 1e6:.0f} MB"
    return [*rows, Row("peak memory of both", peak, limit, timed.peak_bytes <= MOST_BYTES)]


def install_aws(folder: Path) -> Path:
    """The `aws` command, which wants other versions of our packages."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "awscli"], check=True)
    return folder / "bin" / "aws"


def make_engine(scratch: Path, size_bytes: int) -> Engine:
    """The tiny scorer's engine, with a plan of random bytes."""
    store = LocalStore(scratch / "store")
    with store.scratch() as folder:
        (folder / "plan").mkdir()
        with (folder / "plan" / "engine.onnx").open("wb") as stream:
            for start in range(0, size_bytes, 1 << 20):
                stream.write(os.urandom(min(1 << 20, size_bytes - start)))
        plan = store.put(folder / "plan")
    manifest = manifest_of(store, make_outcome(store), plan=plan)
    folders = lay_out(store, manifest, scratch / "files")
    return Engine(manifest, folders, folders[plan.digest] / "engine.onnx")


def measure(scratch: Path, aws: Path, engine: Engine) -> Timed:
    described, host, pulled = scratch / "manifest.json", scratch / "host", scratch / "pulled"
    described.write_text(engine.manifest.model_dump_json())
    folders = json.dumps({digest: str(path) for digest, path in engine.folders.items()})
    python = [sys.executable, "-c"]
    copy = [str(aws), "s3", "cp", "--quiet"]
    publishing = {
        "aws publish": [*copy, str(engine.plan), COPY],
        "our publish": [*python, COMMON + PUBLISH + PEAK, ADDRESS, str(described), folders],
    }
    pulling = {
        "aws pull": ([*copy, COPY, str(pulled)], pulled),
        "our pull": ([*python, COMMON + PULL + PEAK, ADDRESS, str(host)], host),
        # What a pull ends with: bytes that outlive a loss of power.
        "aws, synced pull": (
            ["sh", "-c", '"$0" s3 cp --quiet "$1" "$2" && sync "$2"', str(aws), COPY, str(pulled)],
            pulled,
        ),
    }
    timed = Timed({name: [] for name in (*publishing, *pulling)})
    for number in range(ROUNDS):
        turn = 1 if number % 2 else -1  # who goes first finds another disk than who goes second
        subprocess.run([str(aws), "s3", "rm", "--quiet", "--recursive", f"s3://{BUCKET}"], check=True)
        for name, command in list(publishing.items())[::turn]:
            run(name, command, timed)
        promote(engine)
        for name, (command, path) in list(pulling.items())[::turn]:
            with removed(path):
                run(name, command, timed)
    return timed


def run(name: str, command: list[str], timed: Timed) -> None:
    """Run a command and note its time, and its memory if it prints that."""
    os.sync()  # nobody pays for what another left unwritten
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    started = time.perf_counter()
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    timed.seconds[name].append(time.perf_counter() - started)
    timed.peak_bytes = max(timed.peak_bytes, int(done.stdout or 0))


def promote(engine: Engine) -> None:
    """Point `production` at the engine, straight away."""
    opened = Registry(open_objects(ADDRESS), Signing())
    signed = opened.engines.read_signed(engine.manifest.cell)
    opened.channels.move(
        ChannelAddress("tiny", "cpu", ChannelName.PRODUCTION),
        lambda channel: next_move(
            channel,
            kind="promote",
            engine_id=signed.manifest.engine_id,
            manifest=signed.digest,
            reason="bench",
            override=None,
            who="bench",
        ),
    )


@contextmanager
def removed(path: Path) -> Iterator[None]:
    """Remove what was written, so that the next round writes it anew."""
    yield
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def rate_row(way: str, server: str, timed: Timed, size_bytes: int, against: str = "aws") -> Row:
    aws, ours = (statistics.median(timed.seconds[f"{who} {way}"]) for who in (against, "our"))
    what = f"{way} of a plan of {size_bytes / 1e9:.1f} GB, {server}, MB/s against {against} s3 cp"
    measured = f"{size_bytes / ours / 1e6:.0f} / {size_bytes / aws / 1e6:.0f} = {aws / ours:.2f}"
    return Row(what, measured, f">= {LEAST_RATE}", aws / ours >= LEAST_RATE)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in registry(Path(temporary)):
            print(row)
