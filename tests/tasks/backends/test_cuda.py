from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.backends.cuda import CudaError, Device, check
from tests.tasks.backends.fake_cuda import CUresult, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    driver.install(monkeypatch)
    return driver


@pytest.fixture
def device(driver: FakeDriver) -> Device:
    assert driver.count("cuInit") == 0
    return Device()


@pytest.mark.usefixtures("driver")
def test_a_successful_call_gives_its_value() -> None:
    assert check((CUresult.CUDA_SUCCESS,), "cuInit") is None
    assert check((CUresult.CUDA_SUCCESS, 7), "cuDeviceGet") == 7


@pytest.mark.usefixtures("driver")
def test_a_failed_call_names_itself_and_cudas_reason() -> None:
    with pytest.raises(CudaError, match=r"^CUDA: cuInit failed with CUDA_ERROR_OUT_OF_MEMORY$"):
        check((CUresult.CUDA_ERROR_OUT_OF_MEMORY, None), "cuInit")


def _upload(device: Device) -> None:
    device.buffer(4).upload(np.zeros(1, np.float32), device.stream())


def _download(device: Device) -> None:
    device.buffer(4).download(np.zeros(1, np.float32), device.stream())


def _time(device: Device) -> None:
    device.stream().time_ms(lambda: None)


def _capture(device: Device) -> None:
    device.stream().capture(lambda: None).launch()


USES: list[tuple[str, Callable[[Device], object]]] = [
    ("cuMemGetInfo", Device.memory_in_use_bytes),
    ("cuMemAlloc", lambda device: device.buffer(1)),
    ("cuMemsetD8Async", lambda device: device.buffer(1).fill(0, device.stream())),
    ("cuMemcpyHtoDAsync", _upload),
    ("cuMemcpyDtoHAsync", _download),
    ("cuStreamCreate", Device.stream),
    ("cuEventCreate", Device.stream),
    ("cuStreamSynchronize", lambda device: device.stream().wait()),
    ("cuEventRecord", _time),
    ("cuEventSynchronize", _time),
    ("cuEventElapsedTime", _time),
    ("cuStreamBeginCapture", _capture),
    ("cuStreamEndCapture", _capture),
    ("cuGraphInstantiate", _capture),
    ("cuGraphDestroy", _capture),
    ("cuGraphLaunch", _capture),
]


@pytest.mark.parametrize(("call", "use"), USES, ids=[call for call, _ in USES])
def test_every_call_that_fails_is_named(
    driver: FakeDriver, device: Device, call: str, use: Callable[[Device], object]
) -> None:
    use(device)
    driver.failing[call] = "CUDA_ERROR_INVALID_VALUE"
    with pytest.raises(CudaError, match=rf"CUDA: {call}\b.* failed with CUDA_ERROR_INVALID_VALUE"):
        use(device)


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"])
def test_a_device_that_cannot_be_opened_says_why(driver: FakeDriver, call: str) -> None:
    driver.failing[call] = "CUDA_ERROR_INVALID_VALUE"
    with pytest.raises(CudaError, match=f"CUDA: {call} failed"):
        Device()


def test_memory_that_is_not_there_says_how_much_was_wanted(driver: FakeDriver, device: Device) -> None:
    driver.failing["cuMemAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(CudaError, match=r"cuMemAlloc of 5,000,000 bytes failed with CUDA_ERROR_OUT_OF_MEMORY"):
        device.buffer(5_000_000)


def test_what_is_uploaded_can_be_downloaded(device: Device) -> None:
    stream, sent = device.stream(), np.arange(6, dtype=np.int64).reshape(2, 3)
    buffer = device.buffer(sent.nbytes)
    buffer.upload(sent, stream)
    received = np.empty_like(sent)
    buffer.download(received, stream)
    np.testing.assert_array_equal(received, sent)
    buffer.fill(0xFF, stream)
    buffer.download(received, stream)
    assert (received == -1).all()


def test_memory_in_use_counts_what_is_allocated_and_no_more_once_it_is_freed(
    driver: FakeDriver, device: Device
) -> None:
    before = device.memory_in_use_bytes()
    buffer = device.buffer(4096)
    assert device.memory_in_use_bytes() - before == 4096
    del buffer
    gc.collect()
    assert (device.memory_in_use_bytes(), driver.memory) == (before, {})


def test_a_buffer_of_no_bytes_has_an_address(device: Device) -> None:
    buffer = device.buffer(0)
    assert buffer.address > 0
    assert buffer.size_bytes == 0


def test_streams_events_and_graphs_are_freed_with_their_objects(driver: FakeDriver, device: Device) -> None:
    stream = device.stream()
    graph = stream.capture(lambda: None)
    assert driver.alive["graph"] == 0, "a graph is not needed once it is instantiated"
    assert driver.alive["executable"] == 1
    del graph, stream
    gc.collect()
    assert +driver.alive == {}


def test_captured_work_runs_when_the_graph_is_launched_and_not_before(driver: FakeDriver, device: Device) -> None:
    stream, done = device.stream(), []
    graph = stream.capture(lambda: driver.submit(stream.handle, lambda: done.append(1)))
    assert done == []
    graph.launch()
    graph.launch()
    assert done == [1, 1]


def test_a_capture_ends_even_if_its_work_fails_and_leaves_nothing(driver: FakeDriver, device: Device) -> None:
    stream = device.stream()

    def fail() -> None:
        raise LookupError("no kernel")

    with pytest.raises(LookupError, match="no kernel"):
        stream.capture(fail)
    assert driver.captured is None
    assert driver.alive["graph"] == 0
    stream.wait()
    stream.capture(lambda: None).launch()


def test_what_a_capture_does_not_allow_fails_and_the_stream_lives_on(device: Device) -> None:
    stream = device.stream()
    with pytest.raises(CudaError, match="cuStreamSynchronize failed with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        stream.capture(stream.wait)
    stream.wait()


def test_a_graph_that_cannot_be_instantiated_is_freed(driver: FakeDriver, device: Device) -> None:
    driver.failing["cuGraphInstantiate"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(CudaError, match="cuGraphInstantiate"):
        device.stream().capture(lambda: None)
    assert driver.alive["graph"] == 0


def test_the_time_is_that_between_two_events_around_the_work(driver: FakeDriver, device: Device) -> None:
    stream = device.stream()
    start = len(driver.calls)
    assert stream.time_ms(lambda: driver.calls.append("work")) == 1.5
    assert driver.calls[start:] == [
        "cuEventRecord",
        "work",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuEventElapsedTime",
    ]
