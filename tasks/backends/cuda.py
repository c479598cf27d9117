"""The little of CUDA's driver API that running an engine takes: memory, a stream, events and graphs.

The driver API, unlike the runtime's, works with every driver that is new enough for what is called. TensorRT and
PyTorch use the device's primary context, and so does this.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

FIRST_VISIBLE_DEVICE = 0


class CudaError(StageError):
    """A call of CUDA failed; the message names the call and CUDA's reason."""


def check(result: tuple[Any, ...], call: str) -> Any:
    """The value of a call of the driver API, or None where it has none.

    Raises:
        CudaError: it did not return success.
    """
    from cuda.bindings import driver  # noqa: PLC0415 - only GPU runners have it

    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        name = getattr(status, "name", str(status))
        raise CudaError(f"CUDA: {call} failed with {name}")
    return values[0] if values else None


class Device:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible, with its primary context current in this thread."""

    def __init__(self) -> None:
        from cuda.bindings import driver  # noqa: PLC0415 - as above

        self._driver = driver
        check(driver.cuInit(0), "cuInit")
        self._device = check(driver.cuDeviceGet(FIRST_VISIBLE_DEVICE), "cuDeviceGet")
        context = check(driver.cuDevicePrimaryCtxRetain(self._device), "cuDevicePrimaryCtxRetain")
        check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")

    def memory_in_use_bytes(self) -> int:
        """Bytes of the device's memory that are taken, by whatever process."""
        status, free, total = self._driver.cuMemGetInfo()
        check((status,), "cuMemGetInfo")
        return int(total) - int(free)

    def stream(self) -> Stream:
        """A new stream."""
        return Stream(self._driver)

    def buffer(self, size_bytes: int) -> Buffer:
        """New device memory."""
        return Buffer(self._driver, size_bytes)


class Buffer:
    """Device memory of a fixed size, freed with this object."""

    def __init__(self, driver: Any, size_bytes: int) -> None:
        self._driver = driver
        self.size_bytes = size_bytes
        self._pointer = check(driver.cuMemAlloc(max(size_bytes, 1)), f"cuMemAlloc of {size_bytes:,} bytes")
        self._finalizer = weakref.finalize(self, driver.cuMemFree, self._pointer)

    @property
    def address(self) -> int:
        """Address on the device."""
        return int(self._pointer)

    def fill(self, byte: int, stream: Stream) -> None:
        """Set every byte, in the order of `stream`."""
        check(self._driver.cuMemsetD8Async(self._pointer, byte, self.size_bytes, stream.handle), "cuMemsetD8Async")

    def upload(self, array: np.ndarray[Any, Any], stream: Stream) -> None:
        """Copy a contiguous array to the device, in the order of `stream`."""
        call = self._driver.cuMemcpyHtoDAsync(self._pointer, array.ctypes.data, array.nbytes, stream.handle)
        check(call, "cuMemcpyHtoDAsync")

    def download(self, array: np.ndarray[Any, Any], stream: Stream) -> None:
        """Copy from the device into a contiguous array, in the order of `stream`."""
        call = self._driver.cuMemcpyDtoHAsync(array.ctypes.data, self._pointer, array.nbytes, stream.handle)
        check(call, "cuMemcpyDtoHAsync")


class Stream:
    """A stream of its own, not the default one: that cannot be captured."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.handle = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value), "cuStreamCreate")
        self._events = [check(driver.cuEventCreate(0), "cuEventCreate") for _ in range(2)]
        self._finalizers = [weakref.finalize(self, driver.cuEventDestroy, event) for event in self._events]
        self._finalizers.append(weakref.finalize(self, driver.cuStreamDestroy, self.handle))

    def wait(self) -> None:
        """Wait until everything on the stream is done.

        Raises:
            CudaError: something on it failed.
        """
        check(self._driver.cuStreamSynchronize(self.handle), "cuStreamSynchronize")

    def time_ms(self, work: Callable[[], None]) -> float:
        """Milliseconds on the device between the beginning and the end of what `work` puts on this stream."""
        start, end = self._events
        check(self._driver.cuEventRecord(start, self.handle), "cuEventRecord")
        work()
        check(self._driver.cuEventRecord(end, self.handle), "cuEventRecord")
        check(self._driver.cuEventSynchronize(end), "cuEventSynchronize")
        return float(check(self._driver.cuEventElapsedTime(start, end), "cuEventElapsedTime"))

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` puts on this stream, which does not run, as a graph.

        Raises:
            CudaError: something in it cannot be captured. The stream can be used again.
        """
        driver = self._driver
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(driver.cuStreamBeginCapture(self.handle, mode), "cuStreamBeginCapture")
        try:
            work()
        except BaseException:
            status, graph = driver.cuStreamEndCapture(self.handle)
            if status == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            raise
        return Graph(driver, check(driver.cuStreamEndCapture(self.handle), "cuStreamEndCapture"), self)


class Graph:
    """A captured graph, to be launched on the stream that it was captured from."""

    def __init__(self, driver: Any, graph: Any, stream: Stream) -> None:
        self._driver = driver
        self._stream = stream
        instantiated = driver.cuGraphInstantiate(graph, 0)
        check(driver.cuGraphDestroy(graph), "cuGraphDestroy")
        self._executable = check(instantiated, "cuGraphInstantiate")
        self._finalizer = weakref.finalize(self, driver.cuGraphExecDestroy, self._executable)

    def launch(self) -> None:
        """Put the graph on its stream."""
        check(self._driver.cuGraphLaunch(self._executable, self._stream.handle), "cuGraphLaunch")
