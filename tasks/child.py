"""Runs a function in a child process, so that what it crashes, prints or never ends harms nobody else.

A child takes requests as JSON lines on its standard input and answers on a pipe of its own; whatever it or the
libraries in it print goes to a log file, whose last lines become part of the error. It runs in a process group of
its own, which is killed as a whole at the time limit, and it dies with its parent. Where it runs a model's own code, it
may be given a limit on memory: RLIMIT_DATA, which counts what a process may write to, and, unlike RLIMIT_AS, not the
addresses that CUDA only reserves. Each process that it starts has the limit for itself (setrlimit(2)).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from tasks.errors import EnginegateError, InputError, RefusedError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

Reply = TypeVar("Reply", bound=BaseModel)

LOG_TAIL_LINES = 24
EXIT_LIMIT_S = 10.0
PR_SET_PDEATHSIG = 1
# A child sees these variables and no others: user code must find no credentials in its environment.
ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
MEMORY_SETTING = "ENGINEGATE_MEMORY_LIMIT_GB"
# What Python, torch, NumPy, C++ and the C library say when there is no more.
MEMORY_WORDS = (
    "MemoryError",
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "Unable to allocate",
    "emory allocation",
)
ERRORS: dict[str, type[EnginegateError]] = {kind.__name__: kind for kind in (InputError, StageError, RefusedError)}


class ChildFailedError(StageError):
    """The child died, ran out of time or raised something unexpected. The message ends with its log's last lines."""


def ignore_progress(_done: int, _total: int) -> None:
    """Take progress and do nothing with it."""


class Child:
    """A child process that serves requests to one function until it is closed.

    `entry` is `module:function`, run by this interpreter or by `python`. The function takes a request (a dict of JSON
    values) and a callable for progress (done, total), and returns a pydantic model. What it must keep between requests
    it keeps in its own module. `memory_limit_bytes` holds from before it imports anything but this module.
    """

    def __init__(
        self,
        entry: str,
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        python: Path | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self._entry, self._memory_limit_bytes = entry, memory_limit_bytes
        self._log = folder / "child.log"
        reader, writer = os.pipe()
        inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(python or sys.executable, "-m", "tasks.child"),
                    *(entry, str(writer), str(os.getpid()), str(memory_limit_bytes or "")),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                cwd=folder,
                env={
                    **inherited,
                    "HOME": str(folder),
                    "TMPDIR": str(folder),
                    "PYTHONPATH": _python_path(own=python is None),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, by which the GPU was identified
                    "PYTHONHASHSEED": "0",  # the order of a converter's sets must not change its bytes
                    # What it said before it crashed, and where it crashed, must be in the log.
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONFAULTHANDLER": "1",
                    # Threads that spin at a barrier starve each other when the machine has other work: a call of
                    # 0.05 ms then took 13.6 ms. ONNX Runtime's are told the same in `backends.ort`.
                    "OMP_WAIT_POLICY": "PASSIVE",
                    **(environment or {}),
                },
                start_new_session=True,
            )
        os.close(writer)
        self._replies = os.fdopen(reader, "rb", buffering=0)
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child's process group and release its pipes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._replies.close()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def ask(
        self,
        request: BaseModel,
        reply: type[Reply],
        *,
        time_limit_s: float,
        on_progress: Callable[[int, int], None] = ignore_progress,
    ) -> Reply:
        """Send a request and wait for its reply.

        Raises:
            InputError, StageError, RefusedError: as the function raised them.
            ChildFailedError: it died, raised anything else, or took more than `time_limit_s` seconds.
        """
        try:
            assert self._process.stdin is not None  # noqa: S101 - Popen was given a pipe
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        for message in self._messages(time.monotonic() + time_limit_s, time_limit_s):
            if "progress" in message:
                on_progress(*message["progress"])
            elif "result" in message:
                return reply.model_validate(message["result"])
            else:
                raise self._raised(message)
        raise self._death()

    def _messages(self, deadline: float, time_limit_s: float) -> Iterator[dict[str, Any]]:
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                yield json.loads(line)
                continue
            if not select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.close()
                raise ChildFailedError(
                    f"{self._entry} did not end within {time_limit_s:g} s and was stopped;"
                    f" raise the limit with --time-limit if it needs longer{self._log_tail()}"
                )
            chunk = os.read(self._replies.fileno(), 1 << 16)
            if not chunk:
                return
            self._pending += chunk

    def _raised(self, message: dict[str, Any]) -> EnginegateError:
        kind = ERRORS.get(message["error"])
        text = f"{message['error']}: {message['message']}"
        if kind is not None:
            return kind(f"{message['message']}{self._memory_remedy(text)}")
        return ChildFailedError(f"{self._entry} raised {text}{self._memory_remedy(text)}{self._log_tail()}")

    def _death(self) -> ChildFailedError:
        log = self._log_tail()
        try:
            code = self._process.wait(EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            how = "closed its pipe"
        else:
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"
            log = self._log_tail()  # whole now
            if code == -signal.SIGKILL:
                log = f"; the machine may have run out of memory: give it more, or a smaller batch{log}"
        return ChildFailedError(f"{self._entry} {how} before it answered{self._memory_remedy(log)}{log}")

    def _memory_remedy(self, text: str) -> str:
        """What to do about a lack of memory, where a text tells of one and there is a limit."""
        if self._memory_limit_bytes is None or not any(word in text for word in MEMORY_WORDS):
            return ""
        limit = f"{self._memory_limit_bytes / 1e9:.3g} GB"
        return f"; it may take {limit}: raise {MEMORY_SETTING} if the machine has more, or make its batches smaller"

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "".join(f"\n    | {line}" for line in lines)


def _python_path(*, own: bool) -> str:
    """This project's folder, and, for this very interpreter, where else it was told to look for packages."""
    inherited = os.environ.get("PYTHONPATH") if own else None
    return os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent.parent), inherited)))


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


def call_in_child(
    entry: str,
    request: BaseModel,
    reply: type[Reply],
    folder: Path,
    *,
    time_limit_s: float,
    memory_limit_bytes: int | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> Reply:
    """Run `entry` on one request in a child process of its own; see Child."""
    with Child(entry, folder, memory_limit_bytes=memory_limit_bytes) as child:
        return child.ask(request, reply, time_limit_s=time_limit_s, on_progress=on_progress)


def _serve(entry: str, descriptor: int) -> None:
    replies = os.fdopen(descriptor, "wb", buffering=0)
    os.set_inheritable(descriptor, False)

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")

    def progress(done: int, total: int) -> None:
        send({"progress": [done, total]})

    module, _, function = entry.partition(":")

    def answer(line: bytes) -> dict[str, Any]:
        try:
            result = getattr(importlib.import_module(module), function)(json.loads(line), progress)
            return {"result": result.model_dump(mode="json")}
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            traceback.print_exc()
            return {"error": type(error).__name__, "message": str(error)}

    for line in sys.stdin.buffer:
        send(answer(line))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that call
        os._exit(1)


def machine_memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(limit_bytes: str) -> None:
    if limit_bytes:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(limit_bytes) if most == resource.RLIM_INFINITY else min(int(limit_bytes), most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))


if __name__ == "__main__":
    die_with(int(sys.argv[3]))
    _limit_memory(sys.argv[4])
    _serve(sys.argv[1], int(sys.argv[2]))
