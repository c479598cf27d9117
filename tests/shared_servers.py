"""Servers that one run of the tests starts once, whichever of its workers needs them first.

python -m tests.shared_servers NAME FOLDER RUN      serves until process RUN has ended, however it ends
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
START_LIMIT_S = 180
POLL_S = 0.05


class CannotStartError(RuntimeError):
    """A server that the tests need does not start here; the message says why."""


def shared_server(name: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> str:
    """The endpoint of this run's server of that name: `moto`, `radosgw` or `prefect`.

    Raises:
        CannotStartError: it does not start, or is not installed.
    """
    folder = shared_folder(request, factory)
    run = os.getppid() if is_worker(request) else os.getpid()
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            _start(name, folder / name, run)
        said = json.loads((folder / name / "said.json").read_text())
    if "error" in said:
        raise CannotStartError(said["error"])
    return str(said["endpoint"])


def shared_folder(request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the run, which its workers share."""
    return factory.getbasetemp().parent if is_worker(request) else factory.getbasetemp()


def is_worker(request: pytest.FixtureRequest) -> bool:
    """Whether this is a worker of pytest-xdist, whose parent is the run."""
    return hasattr(request.config, "workerinput")


def _start(name: str, folder: Path, run: int) -> None:
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.shared_servers", name, str(folder), str(run)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal is the run's
        )
    deadline = time.monotonic() + START_LIMIT_S
    while not (folder / "said.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            _say(folder, error=f"the tests' server {name} did not start:\n{(folder / 'log').read_text()}")
        else:
            time.sleep(POLL_S)
    process.returncode = 0  # it is the run's, not this process's: nothing waits for it


def _say(folder: Path, **what: str) -> None:
    (folder / "saying.json").write_text(json.dumps(what))
    (folder / "saying.json").rename(folder / "said.json")


@contextmanager
def server(name: str, folder: Path) -> Iterator[str]:
    """The server as such, with what tests expect there."""
    if name == "prefect":
        from tests.flows.projects import prefect_server  # noqa: PLC0415 - each server has dear imports of its own

        with prefect_server(folder) as endpoint:
            yield endpoint
        return
    from tests.radosgw import serve_radosgw  # noqa: PLC0415 - as above
    from tests.s3_servers import make_bucket, serve_moto  # noqa: PLC0415 - as above

    with serve_radosgw(folder) if name == "radosgw" else serve_moto() as endpoint:
        make_bucket(endpoint)
        yield endpoint


def main(name: str, folder: Path, run: int) -> None:
    """Be the server, until process `run` has ended."""
    try:
        with server(name, folder) as endpoint:
            _say(folder, endpoint=endpoint)
            with suppress(ProcessLookupError):  # it has ended already
                select.select([os.pidfd_open(run)], [], [])
    except RuntimeError as error:
        _say(folder, error=str(error))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
