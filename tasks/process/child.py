"""Runs a function in a child process, so that what it crashes, prints or never ends harms nobody else.

A child takes requests as JSON lines on its standard input and answers on a pipe of its own; whatever it or the
libraries in it print goes to a log file, whose last lines become part of the error. It runs in a process group of
its own, which is killed as a whole at the time limit, and it dies with its parent. Where it runs a model's own code, it
may be given a limit on memory: RLIMIT_DATA, which counts what a process may write to, and, unlike RLIMIT_AS, not the
addresses that CUDA only reserves. Each process that it starts has the limit for itself (setrlimit(2)).

What it sends is a stranger's: it is bounded in time and size, and cut before anybody reads it. What it started is
killed with it, also what left its group; but not what it left behind there when it ended by itself, or with its parent.
It cannot read its parent's environment or memory, unless it may read every process's (root in most places). Other
processes of the same user are as open to it as that user's files: where that matters, it needs a user of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.process.kernel import adopt_orphans, die_with, hide_environment, kill_descendants, limit_memory
from tasks.process.start import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

Reply = TypeVar("Reply")

START = str(Path(__file__).with_name("start.py"))
LOG_TAIL_LINES = 24
LOG_TAIL_BYTES = 64 << 10
LONGEST_LOG_LINE = 1000
LONGEST_MESSAGE = 4000
# The longest honest reply is the time of each call of a turn: some twenty digits each, three million calls.
LONGEST_REPLY_BYTES = 64 << 20
EXIT_LIMIT_S = 10.0
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
    values) and a callable for progress (done, total), and returns a pydantic model or a JSON value. What it must keep
    between requests it keeps in its own module. `memory_limit_bytes` holds from before it imports anything but this
    module.
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
        self._entry, self._folder, self._memory_limit_bytes = entry, folder, memory_limit_bytes
        reader, writer = os.pipe()
        # /proc/PID/environ and mem of a process that must not be dumped are closed to its user: they hold credentials.
        hide_environment()
        # It stays open: at its path, the child may put a pipe that nobody writes to.
        self._log = os.open(folder / "child.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._process = subprocess.Popen(
            [
                *(python or sys.executable, START, entry),
                *(str(writer), str(os.getpid()), str(memory_limit_bytes or "")),
            ],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            cwd=folder,
            env={**_environment(folder, own=python is None), **(environment or {})},
            start_new_session=True,
        )
        os.close(writer)
        assert self._process.stdin is not None  # noqa: S101 - Popen was given a pipe
        self._requests, self._replies = self._process.stdin.fileno(), reader
        os.set_blocking(self._requests, False)
        self._unended = bytearray()
        self._lines: deque[bytes] = deque()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child with all that it started, and release its pipes and its log."""
        if self._closed:
            return
        self._kill()
        self._closed = True
        assert self._process.stdin is not None  # noqa: S101 - as above
        self._process.stdin.close()
        os.close(self._replies)
        os.close(self._log)

    def _kill(self) -> None:
        if self._process.poll() is None:
            kill_descendants(self._process.pid)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

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
            ChildFailedError: it died, raised anything else, took more than `time_limit_s` seconds, or sent what is no
                reply.
        """
        deadline = time.monotonic() + time_limit_s
        try:
            self._send(request.model_dump_json().encode() + b"\n", deadline, time_limit_s)
        except BrokenPipeError:
            raise self._death() from None
        for message in self._messages(deadline, time_limit_s):
            match message:
                case {"progress": [int(done), int(total)]}:
                    on_progress(done, total)
                case {"result": result}:
                    return self._validated(reply, result)
                case {"error": str(kind), "message": str(text)}:
                    raise self._raised(kind, text)
                case _:
                    raise self._stopped("sent what is no reply")
        raise self._death()

    def _send(self, line: bytes, deadline: float, time_limit_s: float) -> None:
        left = memoryview(line)
        while left:  # a child that does not read blocks nobody
            self._wait(([], [self._requests]), deadline, time_limit_s)
            left = left[os.write(self._requests, left) :]

    def _messages(self, deadline: float, time_limit_s: float) -> Iterator[object]:
        while True:
            # Looked at before each message: one that never stops talking is late too.
            self._wait(([], []) if self._lines else ([self._replies], []), deadline, time_limit_s)
            if self._lines:
                yield self._parsed(self._lines.popleft())
                continue
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                return
            self._take(chunk)

    def _wait(self, files: tuple[list[int], list[int]], deadline: float, time_limit_s: float) -> None:
        """Wait until one of the files can be read or written, if there is any.

        Raises:
            ChildFailedError: the time is over.
        """
        left = deadline - time.monotonic()
        if left > 0 and (not any(files) or any(select.select(*files, [], left))):
            return
        raise self._stopped(
            f"did not end within {time_limit_s:g} s", "; raise the limit with --time-limit if it needs longer"
        )

    def _take(self, chunk: bytes) -> None:
        """Add what was read, in time that grows with it alone, however much of an unended line there is."""
        end, *more = chunk.split(b"\n")
        self._unended += end
        for start in more:
            self._lines.append(bytes(self._unended))
            self._unended = bytearray(start)
        if len(self._unended) > LONGEST_REPLY_BYTES:
            raise self._stopped(f"sent a reply of more than {LONGEST_REPLY_BYTES >> 20} MiB")

    def _parsed(self, line: bytes) -> object:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self._stopped("sent what is no reply") from None

    def _validated(self, reply: type[Reply], result: object) -> Reply:
        try:
            return TypeAdapter(reply).validate_python(result)
        except ValidationError:
            raise self._stopped(f"sent what is no {reply.__name__}") from None

    def _stopped(self, why: str, remedy: str = "") -> ChildFailedError:
        self._kill()
        return ChildFailedError(f"{self._entry} {why} and was stopped{remedy}{self._log_tail()}")

    def _raised(self, name: str, message: str) -> EnginegateError:
        kind = ERRORS.get(name)
        text, remedy = _cut(self._told(message), LONGEST_MESSAGE), self._memory_remedy(f"{name}: {message}")
        if kind is not None:
            return kind(f"{text}{remedy}")
        return ChildFailedError(
            f"{self._entry} raised {_cut(name, LONGEST_LOG_LINE)}: {text}{remedy}{self._log_tail()}"
        )

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

    def _told(self, text: str) -> str:
        """A child's words, its files named from its folder on: where that lies says nothing, and is soon gone."""
        return text.replace(f"{self._folder}/", "")

    def _log_tail(self) -> str:
        start = max(0, os.fstat(self._log).st_size - LOG_TAIL_BYTES)  # a sparse file may say that it has petabytes
        text = self._told(os.pread(self._log, LOG_TAIL_BYTES, start).decode(errors="replace"))
        return "".join(f"\n    | {_cut(line, LONGEST_LOG_LINE)}" for line in text.splitlines()[-LOG_TAIL_LINES:])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… (cut after {most} characters)"


def _environment(folder: Path, *, own: bool) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "HOME": str(folder),
        "TMPDIR": str(folder),
        # Where else this very interpreter was told to look for packages.
        "PYTHONPATH": os.environ.get("PYTHONPATH", "") if own else "",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, by which the GPU was identified
        "PYTHONHASHSEED": "0",  # the order of a converter's sets must not change its bytes
        # What it said before it crashed, and where it crashed, must be in the log.
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # Threads that spin at a barrier starve each other when the machine has other work: a call of
        # 0.05 ms then took 13.6 ms. ONNX Runtime's are told the same in `backends.ort`.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


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


def serve(arguments: Sequence[str]) -> None:
    """Serve requests in this process, which `tasks.process.start` has made a child; `arguments` are what it got."""
    entry, descriptor, parent, memory_limit_bytes = arguments
    die_with(int(parent))
    adopt_orphans()  # so that a daemon of a library stays below it, and is killed with it
    limit_memory(memory_limit_bytes)
    replies = os.fdopen(int(descriptor), "wb", buffering=0)
    os.set_inheritable(int(descriptor), False)

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")

    def progress(done: int, total: int) -> None:
        send({"progress": [done, total]})

    module, _, function = entry.partition(":")

    def answer(line: bytes) -> dict[str, Any]:
        try:
            result = getattr(importlib.import_module(f"{PRIVATE}.{module}"), function)(json.loads(line), progress)
            return {"result": result.model_dump(mode="json") if isinstance(result, BaseModel) else result}
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            traceback.print_exc()
            return {"error": type(error).__name__, "message": str(error)}

    for line in sys.stdin.buffer:
        send(answer(line))
