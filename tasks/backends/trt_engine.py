"""Runs a TensorRT engine: its plans, with device memory that is kept from one call to the next, and CUDA graphs."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends.cuda import Buffer, CudaError, Device, Graph, Stream
from tasks.backends.fitting import FitError, choose_profile, cut_output, extents_of, pad_inputs
from tasks.backends.trt_layers import measure_layers
from tasks.backends.trt_log import TrtLog, load_plugins
from tasks.backends.trt_plan import PlanIndex
from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.backends.interface import LayerTime

    Arrays = Mapping[str, np.ndarray[Any, Any]]

# TensorRT's name of a type, and NumPy's. BF16 has none in NumPy.
DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
# How far a graph may be from plain calls, as a share of what other inputs change in the output at all: kernels may add
# up in another order each time.
GRAPH_TOLERANCE = 0.05
WARM_UP_CALLS = 3


class TensorRtEngine:
    """See the interface. Every plan is loaded when the first input for it comes."""

    def __init__(self, trt: Any, folder: Path) -> None:
        self._trt = trt
        self._folder = folder
        self._index = PlanIndex.read(folder)
        self._log = TrtLog(trt)
        self._device = Device()
        self._taken_before = self._device.memory_in_use_bytes()
        load_plugins(trt, self._log, [folder / name for name in self._index.plugins])
        self._stream = self._device.stream()
        self._runtime = trt.Runtime(self._log.logger)
        self._plans: dict[str, _Plan] = {}

    def run(self, feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Run one batch; see the interface."""
        extents = extents_of(feeds, self._index.inputs)
        plan = self._ready(feeds)
        plan.launch()
        outputs = plan.download()
        return {name: cut_output(array, self._index.outputs[name], extents) for name, array in outputs.items()}

    def unused_plans(self) -> tuple[str, ...]:
        """Plans that are not loaded: the first input for a plan loads it; see the interface."""
        return tuple(profile.file for profile in self._index.profiles if profile.file not in self._plans)

    def timed_call(self, feeds: Arrays) -> Callable[[], float]:
        """The batch lies on the device from now on; see the interface."""
        plan = self._ready(feeds)
        for _ in range(WARM_UP_CALLS):
            plan.launch()
        self._stream.wait()
        return partial(self._stream.time_ms, plan.launch)

    def device_memory_bytes(self) -> int:
        """What the device's memory in use has grown by since this engine was opened; see the interface."""
        return self._device.memory_in_use_bytes() - self._taken_before

    def layer_times(self, feeds: Arrays) -> list[LayerTime]:
        """By the engine inspector and a profiler, layer after layer, without a graph; see the interface.

        The plan is loaded anew afterwards: a profiler stays with its context, and 8.6 gives a plan with a range of
        shapes no second one.
        """
        plan = self._ready(feeds)
        self._stream.wait()
        for name, loaded in list(self._plans.items()):
            if loaded is plan:
                del self._plans[name]
        return measure_layers(self._trt, plan.engine, plan.context, self._stream)

    @property
    def uses_graph(self) -> bool:
        """Whether the last input of every plan so far ran as a CUDA graph."""
        return all(plan.graph is not None for plan in self._plans.values())

    def _ready(self, feeds: Arrays) -> _Plan:
        """The plan that takes this batch, with the batch on the device."""
        try:
            profile = choose_profile(self._index.profiles, extents_of(feeds, self._index.inputs))
        except FitError as error:
            raise StageError(str(error)) from None
        if profile.file not in self._plans:
            self._plans[profile.file] = self._load(profile.file)
        plan = self._plans[profile.file]
        plan.upload(pad_inputs(feeds, self._index.inputs, profile))
        return plan

    def _load(self, name: str) -> _Plan:
        engine = self._runtime.deserialize_cuda_engine((self._folder / name).read_bytes())
        if engine is None:
            raise StageError(f"TensorRT {self._trt.__version__} cannot load {name}: {self._log.errors()}")
        return _Plan(self._trt, engine, self._device, self._stream, self._log, with_graph=self._index.cuda_graph)


class _Plan:
    """One deserialised plan, its execution context, its buffers, and the graph of its last shapes."""

    def __init__(self, trt: Any, engine: Any, device: Device, stream: Stream, log: TrtLog, *, with_graph: bool) -> None:
        self.engine = engine
        self.graph: Graph | None = None
        self._trt, self._device, self._stream, self._log = trt, device, stream, log
        self._with_graph = with_graph
        self._buffers: dict[str, Buffer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._uploaded: Arrays = {}
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._types = {name: self._dtype(name) for name in names}

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise StageError(f"the engine's {name} is of type {kind}, which NumPy does not have; make it float32")
        return np.dtype(DTYPES[kind])

    @cached_property
    def context(self) -> Any:
        """The context that runs the plan."""
        context = self.engine.create_execution_context()
        if context is None:
            raise StageError(f"TensorRT cannot run the engine: {self._log.errors()}")
        return context

    def upload(self, feeds: Arrays) -> None:
        """Bring a batch to the device, and the outputs' buffers and the graph up to its shapes."""
        arrays = {name: np.ascontiguousarray(_cast(feeds[name], self._types[name], name)) for name in self._inputs}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != {name: self._shapes.get(name) for name in self._inputs}:
            try:
                self._prepare(arrays)
            except StageError:
                self._shapes = {}  # the next batch must not be taken for one of prepared shapes
                raise
        self._upload(arrays)

    def _upload(self, arrays: Arrays) -> None:
        self._uploaded = arrays  # kept until the next ones: a copy may still read them when the call returns
        for name, array in arrays.items():
            self._buffers[name].upload(array, self._stream)

    def _prepare(self, arrays: Arrays) -> None:
        self._stream.wait()
        self.graph = None
        self._shapes = {name: array.shape for name, array in arrays.items()}
        for name, shape in self._shapes.items():
            self._accept(self.context.set_input_shape(name, shape), f"the shape {shape} of {name}")
        for name in self._outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                raise StageError(
                    f"the shape of output {name} depends on the values of the inputs, which is not supported"
                )
            self._shapes[name] = shape
        for name, shape in self._shapes.items():
            needed = int(np.prod(shape)) * self._types[name].itemsize
            if name not in self._buffers or self._buffers[name].size_bytes < needed:
                self._buffers[name] = self._device.buffer(needed)
        self._bind(self.context)
        self._plain(arrays)  # the first call at a shape makes what a capture may not
        if self._with_graph:
            self.graph = self._captured(arrays)
            if self.graph is None:
                self._give_up_graphs()

    def _bind(self, context: Any) -> None:
        for name, shape in self._shapes.items():
            if name in self._inputs:
                self._accept(context.set_input_shape(name, shape), f"the shape {shape} of {name}")
            self._accept(context.set_tensor_address(name, self._buffers[name].address), f"the address of {name}")

    def _accept(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise StageError(f"TensorRT does not take {what}: {self._log.errors()}")

    def _enqueue(self) -> None:
        self._accept(self.context.execute_async_v3(int(self._stream.handle)), "the batch")

    def _plain(self, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of a batch without a graph."""
        self._upload(arrays)
        self._enqueue()
        return self.download()

    def _captured(self, arrays: Arrays) -> Graph | None:
        """A graph that gives the same outputs as plain calls, or None where this engine cannot be captured.

        It is tried on other inputs than those of the last plain call. A graph that misses a part of the work would
        find that part's results of the last call still there, and give the right outputs for the wrong reason.
        """
        others = {name: _other(array) for name, array in arrays.items()}
        try:
            graph = self._stream.capture(self._enqueue)
            expected = self._plain(others)
            before = self._plain(arrays)
            self._upload(others)
            for name in self._outputs:
                self._buffers[name].fill(0xFF, self._stream)
            graph.launch()
            found = self.download()
        except (CudaError, StageError):
            self._stream.wait()
            self._log.clear()  # what a capture may not do is no error of a later call
            return None
        proven = all(_proven(found[name], expected[name], before[name]) for name in self._outputs)
        return graph if proven else None

    def _give_up_graphs(self) -> None:
        """Go on without graphs, in a new context: the one that could not be captured is in a state of its own."""
        self._with_graph = False
        del self.context
        self._bind(self.context)

    def launch(self) -> None:
        """Put one run on the stream."""
        if self.graph is not None:
            self.graph.launch()
        else:
            self._enqueue()

    def download(self) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of the last run, when it is done."""
        arrays = {name: np.empty(self._shapes[name], self._types[name]) for name in self._outputs}
        for name, array in arrays.items():
            self._buffers[name].download(array, self._stream)
        self._stream.wait()
        return arrays


def _other(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Another input of the same kind: rolled by one, or, where that changes nothing, its second half zero."""
    rolled = np.ascontiguousarray(np.roll(array, 1, axis=-1))
    if np.array_equal(rolled, array):
        rolled[..., array.shape[-1] // 2 :] = 0
    return rolled


def _proven(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> bool:
    """Whether a graph's output is the expected one, and clearly not what the call before it left behind."""
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    effect = np.abs(expected.astype(np.float64) - before)
    most = float(np.max(effect[np.isfinite(effect)], initial=0.0))
    return most > 0 and bool(np.allclose(found, expected, rtol=0, atol=GRAPH_TOLERANCE * most, equal_nan=True))


def _cast(array: np.ndarray[Any, Any], dtype: np.dtype[Any], name: str) -> np.ndarray[Any, Any]:
    """An input in the engine's type. TensorRT 8.6 has no 64-bit integers and takes 32 bits in their place.

    Raises:
        StageError: a value does not fit.
    """
    if array.dtype == dtype:
        return array
    if dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        limits = np.iinfo(dtype)
        if low < limits.min or high > limits.max:
            raise StageError(f"input {name} holds {low if low < limits.min else high}, and the engine takes {dtype}")
    return array.astype(dtype)
