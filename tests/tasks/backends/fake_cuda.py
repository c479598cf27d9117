"""A stand-in for `cuda.bindings.driver`: one device, whose memory and streams are kept in this process.

Work on a stream is done at once, unless the stream is being captured; then it is kept for a graph, and what may not
happen in a capture fails as in CUDA. Every call is written down, and any can be told to fail.

    driver = FakeDriver()
    driver.install(monkeypatch)                    # from cuda.bindings import driver now finds it
    driver.failing["cuMemAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    driver.submit(stream, work)                    # what a kernel of TensorRT's does
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections import Counter
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class StreamFlags(enum.IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


TOTAL_BYTES = 1 << 30
OK = CUresult.CUDA_SUCCESS
# How many values a call returns beside its status; none where a call is not named.
VALUES = {
    "cuMemGetInfo": 2,
    **dict.fromkeys(("cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemAlloc", "cuStreamCreate", "cuEventCreate"), 1),
    **dict.fromkeys(("cuEventElapsedTime", "cuStreamEndCapture", "cuGraphInstantiate"), 1),
}


class FakeDriver:
    """One device. `memory` holds what is allocated, by address; `alive` counts handles by kind."""

    def __init__(self) -> None:
        self.memory: dict[int, bytearray] = {}
        self.failing: dict[str, str] = {}
        self.calls: list[str] = []
        self.alive: Counter[str] = Counter()
        self.captured: list[Callable[[], None]] | None = None
        self._next = 0x7000
        self.module = ModuleType("cuda.bindings.driver", "A fake.")
        vars(self.module).update(CUresult=CUresult, CUstream_flags=StreamFlags, CUstreamCaptureMode=CaptureMode)
        for name in dir(self):
            if name.startswith("cu") and name[2].isupper():
                setattr(self.module, name, partial(self._call, name))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
        vars(cuda)["bindings"], vars(bindings)["driver"] = bindings, self.module
        for module in (cuda, bindings, self.module):
            patch.setitem(sys.modules, module.__name__, module)

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        """Do work on a stream, or keep it for the graph that is being captured."""
        assert stream
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        status = CUresult[self.failing[name]] if name in self.failing else None
        if status is None:
            status, *values = getattr(self, name)(*arguments)
            if status == OK:
                assert len(values) == VALUES.get(name, 0)
                return (status, *values)
        return (status, *[None] * VALUES.get(name, 0))

    def _new(self, kind: str) -> tuple[CUresult, int]:
        self._next += 0x1000
        self.alive[kind] += 1
        return OK, self._next

    def _gone(self, kind: str) -> tuple[CUresult]:
        self.alive[kind] -= 1
        assert self.alive[kind] >= 0, f"a {kind} was freed twice"
        return (OK,)

    def cuInit(self, flags: int) -> Any:  # noqa: N802 - CUDA's names, here and below
        assert flags == 0
        return (OK,)

    def cuDeviceGet(self, ordinal: int) -> Any:  # noqa: N802
        return OK, ordinal + 100

    def cuDevicePrimaryCtxRetain(self, device: int) -> Any:  # noqa: N802
        assert device == 100
        return OK, "context"

    def cuCtxSetCurrent(self, context: str) -> Any:  # noqa: N802
        assert context == "context"
        return (OK,)

    def cuMemGetInfo(self) -> Any:  # noqa: N802
        return OK, TOTAL_BYTES - sum(map(len, self.memory.values())), TOTAL_BYTES

    def cuMemAlloc(self, size: int) -> Any:  # noqa: N802
        if size == 0:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        if self.captured is not None:
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        _, address = self._new("buffer")
        self.memory[address] = bytearray(b"\xa5" * size)  # what is not written must not look right
        return OK, address

    def cuMemFree(self, address: int) -> Any:  # noqa: N802
        del self.memory[address]
        return self._gone("buffer")

    def cuMemsetD8Async(self, address: int, byte: int, count: int, stream: int) -> Any:  # noqa: N802
        def work() -> None:
            self.memory[address][:count] = bytes([byte]) * count

        self.submit(stream, work)
        return (OK,)

    def cuMemcpyHtoDAsync(self, address: int, host: int, count: int, stream: int) -> Any:  # noqa: N802
        assert count <= len(self.memory[address]), "written past the end of a buffer"

        def work() -> None:
            self.memory[address][:count] = ctypes.string_at(host, count)

        self.submit(stream, work)
        return (OK,)

    def cuMemcpyDtoHAsync(self, host: int, address: int, count: int, stream: int) -> Any:  # noqa: N802
        assert count <= len(self.memory[address]), "read past the end of a buffer"
        self.submit(stream, lambda: ctypes.memmove(host, bytes(self.memory[address][:count]), count))
        return (OK,)

    def cuStreamCreate(self, flags: int) -> Any:  # noqa: N802
        assert flags == StreamFlags.CU_STREAM_NON_BLOCKING.value
        return self._new("stream")

    def cuStreamDestroy(self, _stream: int) -> Any:  # noqa: N802
        return self._gone("stream")

    def cuStreamSynchronize(self, _stream: int) -> Any:  # noqa: N802
        return (OK if self.captured is None else CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)

    def cuEventCreate(self, _flags: int) -> Any:  # noqa: N802
        return self._new("event")

    def cuEventDestroy(self, _event: int) -> Any:  # noqa: N802
        return self._gone("event")

    def cuEventRecord(self, _event: int, _stream: int) -> Any:  # noqa: N802
        return (OK,)

    def cuEventSynchronize(self, _event: int) -> Any:  # noqa: N802
        return (OK,)

    def cuEventElapsedTime(self, start: int, end: int) -> Any:  # noqa: N802
        assert start < end
        return OK, 1.5

    def cuStreamBeginCapture(self, _stream: int, mode: CaptureMode) -> Any:  # noqa: N802
        assert mode is CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        assert self.captured is None
        self.captured = []
        return (OK,)

    def cuStreamEndCapture(self, _stream: int) -> Any:  # noqa: N802
        work, self.captured = self.captured, None
        self.alive["graph"] += 1
        return OK, work

    def cuGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> Any:  # noqa: N802
        assert flags == 0
        self.alive["executable"] += 1
        return OK, tuple(graph)

    def cuGraphDestroy(self, _graph: list[Callable[[], None]]) -> Any:  # noqa: N802
        return self._gone("graph")

    def cuGraphExecDestroy(self, _executable: Any) -> Any:  # noqa: N802
        return self._gone("executable")

    def cuGraphLaunch(self, executable: tuple[Callable[[], None], ...], _stream: int) -> Any:  # noqa: N802
        for work in executable:
            work()
        return (OK,)
