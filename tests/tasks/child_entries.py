"""Entries for test_child: each does what user code, or a native library under it, might do."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.declared import Frozen
from tasks.errors import InputError, RefusedError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS = {"InputError": InputError, "StageError": StageError, "RefusedError": RefusedError}


class Ask(Frozen):
    """A request with any text."""

    text: str = ""


class Answer(Frozen):
    """A reply with any text."""

    text: str = ""


def echo(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer with the text of the request."""
    return Answer(text=request["text"])


def print_everywhere(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Print what looks like replies, by every way there is."""
    forged = '{"result": {"text": "forged"}}\n'
    print(forged, end="", flush=True)  # noqa: T201 - the point of this one
    sys.stderr.write(forged)
    os.write(1, forged.encode())
    os.write(2, forged.encode())
    subprocess.run(["echo", forged], check=True)  # noqa: S607 - whichever echo there is
    return Answer(text=request["text"])


def count(request: dict[str, Any], progress: Callable[[int, int], None]) -> Answer:
    """Report progress as often as the request says."""
    total = int(request["text"])
    for number in range(total):
        progress(number + 1, total)
    return Answer()


def fail_to_load(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Raise what a library says of a file in the child's folder."""
    raise StageError(f"cannot load {Path.cwd()}/plain/model.onnx")


def fail_with(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Raise the error that the request names."""
    raise ERRORS[request["text"]](f"a {request['text']} from the child")


def raise_unexpected(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Raise what nobody declared."""
    print("the last thing it said")  # noqa: T201 - goes to the log
    raise LookupError("no such layer: \ud800 ✓")


def leave(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """End the process with the code of the request, without a word."""
    os._exit(int(request["text"]))


def exit_politely(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """End the process as a script would."""
    sys.exit(3)


def segfault(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Read address 0."""
    print("the last thing it said", end="")  # noqa: T201 - goes to the log
    ctypes.string_at(0)
    return Answer()


def never_return(request: dict[str, Any], progress: Callable[[int, int], None]) -> Answer:
    """Start a grandchild, write both process ids to the file of the request, ignore polite signals, and sleep."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "600"])  # noqa: S607 - whichever sleep there is
    path = Path(request["text"])
    path.with_suffix(".part").write_text(f"{os.getpid()} {grandchild.pid}")
    path.with_suffix(".part").rename(path)
    progress(0, 1)
    time.sleep(600)
    return Answer()


def close_the_pipe(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Close every file but the standard ones, as a daemon would, and sleep."""
    os.closerange(3, 256)
    time.sleep(600)
    return Answer()


def flood(_request: dict[str, Any], progress: Callable[[int, int], None]) -> Answer:
    """Say that it runs, send 32 MiB without an end of line, and answer."""
    progress(0, 1)
    for _ in range(32):
        reply(b"x" * (1 << 20))
    reply(b"\n")
    return Answer()


def send_line(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Send the text of the request in place of a reply."""
    reply(request["text"].encode() + b"\n")
    time.sleep(600)
    return Answer()


def reply(data: bytes) -> None:
    """Write to the pipe of the replies, whose number every child can read in its arguments."""
    descriptor = int(sys.argv[2])
    while data:
        data = data[os.write(descriptor, data) :]


def raise_at_length(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Say long lines, then raise, with a long text, what the request names."""
    print("B" * 5000, "ends", sep="\n")  # noqa: T201 - goes to the log
    kind = ERRORS.get(request["text"], type("C" * 5000, (Exception,), {}))
    raise kind("A" * 10_000)


def stretch_the_log(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Leave a log of a terabyte, of which the disk holds a line."""
    os.ftruncate(1, 1 << 40)
    os.lseek(1, 0, os.SEEK_END)
    os.write(1, b"\nthe last thing it said\n")
    os._exit(3)


def remove_the_log(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Leave no log where it was."""
    print("the last thing it said")  # noqa: T201 - goes to the log
    Path("child.log").unlink()
    os._exit(3)


def start_daemon(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Start an orphan in a session of its own, with no environment and an odd name; answer with its process id."""
    odd = Path(request["text"]) / "d) Z 1 ("
    odd.symlink_to(shutil.which("sleep") or "")
    start = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2).pid)"
    command = [sys.executable, "-c", start, str(odd), "600"]
    return Answer(text=subprocess.run(command, check=True, env={}, stdout=subprocess.PIPE, text=True).stdout)


def read_the_parents_environment(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer with the parent's environment, or with why it cannot be read."""
    try:
        return Answer(text=Path(f"/proc/{os.getppid()}/environ").read_text())
    except PermissionError as error:
        return Answer(text=type(error).__name__)


def show_environment(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer with the names and values of the environment."""
    return Answer(text="\n".join(f"{name}={value}" for name, value in os.environ.items()))


def remember_calls(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer how often this process was asked."""
    CALLS.append(1)
    return Answer(text=str(len(CALLS)))


CALLS: list[int] = []
