"""Runs one conversion as a command of its own, so that what befalls it ends neither the other models nor who asked.

It has a process group of its own, and dies with this process, however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import ValidationError

from flows.conversion.conversion_report import ConversionReport, FailureReport
from tasks.errors import VERDICT_CODES, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Stop = Callable[[], bool]

# The current folder may hold a stranger's `flows` or `json`: what is imported comes from elsewhere.
_START = "import sys; sys.path[:] = [path for path in sys.path if path]; from flows.commands.cli import main; main()"
CONVERT = (sys.executable, "-c", _START, "convert")
LOOK_EVERY_S = 2.0
GRACE_S = 30.0
"""How long a conversion that was asked to end may take for it, in seconds."""
LONGEST_DOCUMENT = 64 << 20
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")  # of util-linux, which every Linux has


@dataclass(frozen=True)
class Ended:
    """How a conversion ended: its exit code (negative: the signal that killed it), and what it reported, if anything.

    Where it has no `report`, `error` is its own reason, empty if it gave none. `stopped` says that it was stopped,
    because `stop` said so.
    """

    code: int
    stopped: bool
    report: ConversionReport | None = None
    error: str = ""

    def made(self, version: str | None) -> ConversionReport | None:
        """The report of a conversion that came to verdicts, if they are those of this version."""
        done = self.code in VERDICT_CODES.values() and self.report is not None and self.report.version == version
        return self.report if done else None

    def failure(self, version: str | None) -> str:
        """Why there are no verdicts of this version."""
        if self.error:
            return self.error
        if self.code in VERDICT_CODES.values():
            made = "no report" if self.report is None else f"version {self.report.version}"
            return (
                f"the conversion made {made}, and {version} was planned: the tools or their settings differ between"
                " the two; send the commit again"
            )
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"
        return f"the conversion {how} without a word; see its lines above, and send the commit again"


def run_child(command: Sequence[str], folder: Path, tell: Callable[[str], None], stop: Stop) -> Ended:
    """Run a command until it ends, or until `stop` says, every few seconds, that nobody needs it any more.

    Args:
        command: with its arguments; its standard output is one JSON document.
        folder: for that document.
        tell: is given each line of its standard error, from another thread.
        stop: whether to end it.

    Raises:
        StageError: it cannot be started.
    """
    document = folder / "document.json"
    with document.open("wb") as output:
        process = _start(command, output)
    assert process.stderr is not None  # noqa: S101 - Popen was given a pipe
    listener = threading.Thread(target=_listen, args=(process.stderr, tell), daemon=True)
    listener.start()
    try:
        stopped = _wait(process, stop)
    finally:
        _end(process)
        # A process that left the group may keep the pipe open; nobody waits for that one.
        listener.join(LOOK_EVERY_S)
    report, error = _read(document)
    return Ended(process.returncode, stopped, report, error)


def _start(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [*_DIES_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise StageError(f"a conversion cannot be started: {error}; mend that and send the commit again") from None


def _environment() -> dict[str, str]:
    """This process's, without what makes a Prefect process of it take itself for the run that started it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**inherited, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _listen(stream: IO[bytes], tell: Callable[[str], None]) -> None:
    for line in stream:
        tell(line.decode(errors="replace").rstrip())


def _wait(process: subprocess.Popen[bytes], stop: Stop) -> bool:
    while True:
        try:
            process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if stop():
                return True
        else:
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end if it has not, and kill what is left of its group then."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    finally:  # a second Ctrl-C does not wait
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(path: Path) -> tuple[ConversionReport | None, str]:
    """The report in a file, or else the error."""
    if path.stat().st_size > LONGEST_DOCUMENT:
        return None, ""
    content = path.read_bytes()
    with suppress(ValidationError):
        return ConversionReport.model_validate_json(content), ""
    with suppress(ValidationError):
        return None, FailureReport.model_validate_json(content).error
    return None, ""
