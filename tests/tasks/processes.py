"""Runs a piece of work in processes of their own: several at once, or one that is killed on the way."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from types import FrameType

PACKAGE = str(Path(__file__).resolve().parents[2] / "tasks")
TRACED = (PACKAGE, "shutil.py")
CONTEXT = multiprocessing.get_context("fork")
LIMIT_S = 240


def start_fork(work: Callable[[], object]) -> BaseProcess:
    """Start `work` in a fork of this process; it ends with 0 if `work` returned, and runs none of the exit hooks here.

    Where a flow ran before, Prefect's hooks wait for threads that a fork does not have.
    """

    def run() -> None:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing else would show it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    process = CONTEXT.Process(target=run)
    process.start()
    return process


def race(workers: Sequence[Callable[[], object]]) -> list[str]:
    """Run all at the same time; return what each returned, as text, or the name of what it raised."""
    start, results = CONTEXT.Barrier(len(workers)), CONTEXT.SimpleQueue()

    def run(number: int) -> None:
        start.wait(LIMIT_S)
        try:
            results.put((number, str(workers[number]())))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.put((number, type(error).__name__))

    for process in [start_fork(functools.partial(run, number)) for number in range(len(workers))]:
        process.join(LIMIT_S)
        assert process.exitcode == 0
    return [text for _, text in sorted(results.get() for _ in workers)]


def kill_points(work: Callable[[Path], object], root: Path, *, stride: int = 1) -> Iterator[Path]:
    """Run `work` again and again, each time in a new folder below `root`, killed `stride` lines of tasks/ later.

    Yields each folder as the killed process left it; ends with the first run that came to its end.
    """
    line = 0
    while is_killed_at(line, functools.partial(work, root / str(line))):
        yield root / str(line)
        line += stride


def is_killed_at(line: int, work: Callable[[], object]) -> bool:
    """Run `work` in a process that ends by SIGKILL before it runs its `line`-th line of tasks/.

    Returns False if it had no more lines than that, and so came to its end.
    """
    pid = os.fork()
    if pid == 0:
        _run_until(line, work)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _run_until(line: int, work: Callable[[], object]) -> None:
    left = line

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if not (frame.f_code.co_filename.startswith(TRACED[0]) or frame.f_code.co_filename.endswith(TRACED[1])):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    code = 1
    try:
        sys.settrace(trace)
        work()
        code = 0
    finally:
        os._exit(code)
