"""Runs a piece of work in processes of their own: several at once, or one that is killed on the way."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import posix
import signal
import socket
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from tests.hardship import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from types import FrameType

CHANGES = {
    *("chmod", "fsync", "ftruncate", "link", "mkdir", "remove", "rename", "replace", "rmdir"),
    *("sendfile", "symlink", "truncate", "unlink", "utime"),
}
NAMING = {"link", "rename", "replace", "symlink"}
SENDS = {"send", "sendall"}
WRITERS = (io.FileIO, io.BufferedWriter)
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


def kill_points(
    work: Callable[[Path], object],
    root: Path,
    *,
    prepare: Callable[[Path], object] = lambda _folder: None,
    stride: int | None = None,
) -> Iterator[Path]:
    """Run `work` again and again, each time in a folder of its own below `root`, killed some changes later.

    It is killed before every change that gives something its name, before the change after that, and every `stride`
    changes, which is the stride of `hardship.py` where none is given. `prepare` makes the folder, if `work` does not.
    Yields each folder as the killed process left it; ends with the first run that came to its end.
    """
    prepare(root / "watched")
    made = changes_of(functools.partial(work, root / "watched"))
    naming = {number + after for number, name in enumerate(made) for after in (0, 1) if name in NAMING}
    for change in sorted(naming | {*range(0, len(made), stride or numbers().stride)}):
        folder = root / str(change)
        prepare(folder)
        if not is_killed_at(change, functools.partial(work, folder)):
            return
        yield folder


def is_killed_at(change: int, work: Callable[[], object]) -> bool:
    """Run `work` in a process that ends by SIGKILL right before it makes its `change`-th change, from 0.

    A change is what others see or what a loss of power would undo: a file opened to be written, written, synced,
    renamed, linked or removed, a folder made or removed, and a part of a request sent, which counts once more after it.
    The moment after any other change is the moment before the next. Returns False if it made no more changes than
    that, and so came to its end.
    """
    pid = os.fork()
    if pid == 0:
        _run_until(change, work)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def changes_of(work: Callable[[], object]) -> list[str]:
    """The changes that `work` makes in a process of its own, in their order, by the names of the system's calls."""
    told = CONTEXT.SimpleQueue()

    def run() -> None:
        seen: list[str] = []
        _watch(seen.append)
        try:
            work()
        finally:
            sys.setprofile(None)
            told.put(seen)

    process = start_fork(run)
    found: list[str] = told.get()
    process.join(LIMIT_S)
    assert process.exitcode == 0
    return found


def _run_until(change: int, work: Callable[[], object]) -> None:
    left = change

    def count(_name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        _watch(count)
        work()
        code = 0
    finally:
        os._exit(code)


def _watch(tell: Callable[[str], object]) -> None:
    """Tell of each change of this process, before it is made; what cannot be undone, for a process about to end."""

    def profile(frame: FrameType, event: str, function: Any) -> None:
        if event not in {"c_call", "c_return"} or frame.f_code.co_filename.startswith("<frozen importlib"):
            return
        owner, name = getattr(function, "__self__", None), function.__name__
        if (isinstance(owner, socket.socket) and name in SENDS) or (
            event == "c_call"
            and ((owner is posix and name in CHANGES) or (name == "write" and isinstance(owner, WRITERS)))
        ):
            tell(name)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = str(arguments[0])
            if "__pycache__" not in path and path != os.devnull:
                tell("open")

    sys.addaudithook(audit)
    threading.setprofile(profile)
    sys.setprofile(profile)
