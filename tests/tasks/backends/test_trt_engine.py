"""Engines of every release's stand-in, on a stand-in of CUDA whose memory the "kernels" read and write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.backends.cuda import CudaError
from tasks.backends.profiles import profiles_of
from tasks.backends.trt import TensorRtBackend
from tasks.backends.trt_layers import CALLS
from tasks.backends.trt_plan import PlanIndex
from tasks.errors import StageError
from tests.tasks.backends.fake_cuda import FakeDriver
from tests.tasks.backends.fake_tensorrt import FakeTensorrt, install
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.tensorrt_api.recording import RELEASES
from tests.tasks.backends.test_trt_build import BUCKETS, RANGE, make_job
from tests.tasks.tiny import make_features, score, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.backends.trt_engine import TensorRtEngine

    Arrays = dict[str, np.ndarray[Any, Any]]

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


@dataclass
class Plan:
    """What every plan computes. `types` are TensorRT's by tensor; `shape_of` gives an output's from the inputs'."""

    compute: Callable[[Arrays], Arrays] = lambda feeds: {"score": score(feeds["features"])}
    shape_of: Callable[[Mapping[str, tuple[int, ...]]], tuple[int, ...]] = lambda shapes: shapes["features"][:1]
    types: dict[str, str] = field(default_factory=lambda: {"features": "FLOAT", "score": "FLOAT"})
    loaded: list[bytes] = field(default_factory=list)
    batches: list[Arrays] = field(default_factory=list)
    plain_calls: int = 0
    refuse_in_capture: bool = False
    accept: bool = True
    graph_is_half: bool = False
    last: Arrays = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        return [name for name in self.types if name != "score"]


class Gpu:
    """A release of TensorRT, and CUDA, whose engines do what `plan` says."""

    def __init__(self, release: str, patch: pytest.MonkeyPatch) -> None:
        self.fake, self.driver, self.plan = FakeTensorrt(release), FakeDriver(), Plan()
        install(patch, self.fake)
        self.driver.install(patch)
        trt, on = self.fake.module, self.fake.on
        on("Runtime.deserialize_cuda_engine", self._load)
        on("ICudaEngine.num_io_tensors", lambda _: len(self.plan.types))
        on("ICudaEngine.get_tensor_name", lambda _, index: list(self.plan.types)[index])
        modes = trt.TensorIOMode
        on("ICudaEngine.get_tensor_mode", lambda _, name: modes.INPUT if name in self.plan.inputs else modes.OUTPUT)
        on("ICudaEngine.get_tensor_dtype", lambda _, name: getattr(trt.DataType, self.plan.types[name]))
        on("IExecutionContext.set_input_shape", self._set_shape)
        on("IExecutionContext.get_tensor_shape", lambda context, _: self.plan.shape_of(state_of(context)["shapes"]))
        on("IExecutionContext.set_tensor_address", self._set_address)
        on("IExecutionContext.execute_async_v3", self._execute)

    def _load(self, _runtime: Any, content: bytes) -> Any:
        self.plan.loaded.append(bytes(content))
        return self.fake.make("ICudaEngine")

    def _set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        state_of(context).setdefault("shapes", {})[name] = tuple(shape)
        return True

    def _set_address(self, context: Any, name: str, memory: int) -> bool:
        state_of(context).setdefault("addresses", {})[name] = memory
        return True

    def _execute(self, context: Any, stream: int) -> bool:
        if not self.plan.accept or (self.plan.refuse_in_capture and self.driver.captured is not None):
            return False
        shapes, addresses = dict(state_of(context)["shapes"]), dict(state_of(context)["addresses"])
        self.plan.plain_calls += self.driver.captured is None
        if context.profiler is not None:
            for layer, ms in (("gemm", 0.5), ("sigmoid", 0.25)):
                context.profiler.report_layer_time(layer, ms)

        in_graph = self.driver.captured is not None

        def work() -> None:
            feeds = {
                name: np.frombuffer(self.driver.memory[addresses[name]], NUMPY[self.plan.types[name]])[
                    : int(np.prod(shape))
                ].reshape(shape)
                for name, shape in shapes.items()
            }
            self.plan.batches.append({name: array.copy() for name, array in feeds.items()})
            if not (in_graph and self.plan.graph_is_half):  # half a graph goes on from what the last call left
                self.plan.last = self.plan.compute(feeds)
            for name, array in self.plan.last.items():
                content = array.astype(NUMPY[self.plan.types[name]]).tobytes()
                assert len(content) <= len(self.driver.memory[addresses[name]])
                self.driver.memory[addresses[name]][: len(content)] = content

        self.driver.submit(stream, work)
        return True

    def say(self, engine: TensorRtEngine, text: str) -> None:
        engine._log.logger.log(self.fake.module.Logger.ERROR, text)  # noqa: SLF001 - TensorRT would


@pytest.fixture(params=RELEASES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(request.param, monkeypatch)


def write_plans(folder: Path, dims: dict[str, Any] | None = None, *, cuda_graph: bool = True, **changes: Any) -> Path:
    """The tiny scorer's engine; changes are those of its model.yaml."""
    spec = tiny_spec(dims=dims or RANGE, **changes)
    job = make_job(folder).model_copy(
        update={
            "inputs": spec.inputs,
            "dims": spec.dims,
            "settings": spec.build.model_copy(update={"cuda_graph": cuda_graph}),
        }
    )
    profiles = profiles_of(job.dims)
    PlanIndex.describe(job, profiles, {"score": ("batch",)}).write(job.plan)
    for profile in profiles:
        (job.plan / profile.file).write_bytes(profile.file.encode())
    return job.plan


def load(folder: Path, dims: dict[str, Any] | None = None, **changes: Any) -> TensorRtEngine:
    return TensorRtBackend().load(write_plans(folder, dims, **changes))


def check(engine: TensorRtEngine, samples: int, seed: int = 0) -> None:
    features = make_features(samples, seed)
    outputs = engine.run({"features": features})
    assert {name: array.shape for name, array in outputs.items()} == {"score": (samples,)}
    np.testing.assert_allclose(outputs["score"], score(features), atol=1e-6)


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "plain"])
@pytest.mark.parametrize("dims", [RANGE, BUCKETS], ids=["range", "buckets"])
def test_an_engine_computes_what_its_plans_say_at_every_batch(
    gpu: Gpu, tmp_path: Path, dims: dict[str, Any], cuda_graph: bool
) -> None:
    engine = load(tmp_path, dims, cuda_graph=cuda_graph)
    for number, samples in enumerate([1, 3, 16, 3, 3, 8, 1, 16]):
        check(engine, samples, seed=number)
    assert engine.uses_graph == cuda_graph
    assert gpu.plan.batches


def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_it(gpu: Gpu, tmp_path: Path) -> None:
    inputs = {"features": {"dtype": "float32", "shape": ["batch", 4], "pad": 9}}
    engine = load(tmp_path, BUCKETS, inputs=inputs)
    check(engine, 3)
    padded = gpu.plan.batches[-1]["features"]
    assert padded.shape == (8, 4)
    np.testing.assert_array_equal(padded[:3], make_features(3))
    assert (padded[3:] == 9).all()


def test_a_plan_is_loaded_when_the_first_batch_for_it_comes(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path, BUCKETS)
    assert gpu.plan.loaded == []
    for samples in (1, 5, 8, 9, 1):
        check(engine, samples)
    assert gpu.plan.loaded == [b"engine-batch1.plan", b"engine-batch8.plan", b"engine-batch16.plan"]


def test_a_batch_that_no_plan_holds_is_refused(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path, BUCKETS)
    with pytest.raises(StageError, match=r"no profile for {'batch': 17}"):
        engine.run({"features": make_features(17)})
    assert gpu.plan.loaded == []


def test_buffers_stay_as_long_as_they_are_large_enough(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path)

    def allocated(samples: int) -> int:
        before = gpu.driver.count("cuMemAlloc")
        check(engine, samples)
        return gpu.driver.count("cuMemAlloc") - before

    assert [allocated(samples) for samples in (4, 4, 2, 4, 9, 5, 16, 16)] == [2, 0, 0, 0, 2, 0, 2, 0]
    assert sorted(map(len, gpu.driver.memory.values())) == [16 * 4, 16 * 16], "those that are too small are freed"
    assert engine.device_memory_bytes() == 16 * 4 + 16 * 16


def test_a_graph_serves_calls_of_the_same_shape_and_is_made_anew_for_another(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path)
    check(engine, 4)
    calls = gpu.plan.plain_calls
    for seed in range(5):
        check(engine, 4, seed)
    assert gpu.plan.plain_calls == calls
    check(engine, 9)
    assert gpu.plan.plain_calls > calls
    assert gpu.driver.alive["executable"] == 1, "the graph of the old shape is freed"
    assert engine.uses_graph


def break_call(name: str) -> Callable[[Gpu], None]:
    return lambda gpu: gpu.driver.failing.update({name: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"})


def refuse_in_capture(gpu: Gpu) -> None:
    gpu.plan.refuse_in_capture = True


def compute_otherwise_each_time(gpu: Gpu) -> None:
    # As a plan whose shapes or branches were fixed in capture: what its graph gives is not what it gives.
    calls = iter(range(10**6))
    gpu.plan.compute = lambda feeds: {"score": score(feeds["features"]) + 0.1 * next(calls)}


@pytest.mark.parametrize(
    "spoil",
    [
        break_call("cuStreamBeginCapture"),
        break_call("cuGraphInstantiate"),
        break_call("cuGraphLaunch"),
        refuse_in_capture,
    ],
    ids=["no capture", "no instance", "no launch", "no call in capture"],
)
def test_what_cannot_be_captured_is_called_plainly(gpu: Gpu, tmp_path: Path, spoil: Callable[[Gpu], None]) -> None:
    spoil(gpu)
    engine = load(tmp_path, BUCKETS)
    for samples in (1, 3, 3, 16):
        check(engine, samples)
    assert not engine.uses_graph
    assert +gpu.driver.alive == {"stream": 1, "event": 2, "buffer": 6}


def test_a_graph_that_gives_other_outputs_than_plain_calls_is_not_used(gpu: Gpu, tmp_path: Path) -> None:
    compute_otherwise_each_time(gpu)
    engine = load(tmp_path)
    calls = gpu.plan.plain_calls
    for _ in range(4):
        engine.run({"features": make_features(3)})
    assert not engine.uses_graph
    assert gpu.plan.plain_calls - calls == 3 + 4


def test_a_graph_that_holds_a_part_of_the_work_is_not_used(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.graph_is_half = True
    engine = load(tmp_path)
    for seed in range(3):
        check(engine, 3, seed=seed)
    assert not engine.uses_graph


def test_after_a_failed_capture_a_new_context_goes_on_and_no_other_shape_is_tried(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.refuse_in_capture = True
    engine = load(tmp_path)
    for samples in (3, 5, 3):
        check(engine, samples)
    contexts = [call for call in gpu.fake.calls if call.name == "ICudaEngine.create_execution_context"]
    assert len(contexts) == 2
    assert gpu.driver.calls.count("cuStreamBeginCapture") == 1


def test_a_graph_that_writes_nothing_is_not_used(gpu: Gpu, tmp_path: Path) -> None:
    launch = gpu.driver.module.cuGraphLaunch
    gpu.driver.module.cuGraphLaunch = lambda _executable, stream: launch((), stream)
    engine = load(tmp_path)
    check(engine, 3)
    assert not engine.uses_graph


def test_a_graph_may_differ_by_the_order_of_a_sum(gpu: Gpu, tmp_path: Path) -> None:
    calls = iter(range(10**6))
    gpu.plan.compute = lambda feeds: {"score": score(feeds["features"]) + 1e-4 * (next(calls) % 2)}
    engine = load(tmp_path)
    engine.run({"features": make_features(3)})
    assert engine.uses_graph


def test_outputs_that_no_input_changes_prove_no_graph(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.compute = lambda feeds: {"score": np.full(len(feeds["features"]), np.nan)}
    engine = load(tmp_path)
    assert np.isnan(engine.run({"features": make_features(3)})["score"]).all()
    assert not engine.uses_graph


TOKENS = {"tokens": {"dtype": "int64", "shape": ["batch", 4]}}


def give_token_plan(gpu: Gpu, kind: str = "INT32") -> None:
    gpu.plan.types = {"tokens": kind, "score": "FLOAT"}
    gpu.plan.shape_of = lambda shapes: shapes["tokens"][:1]
    gpu.plan.compute = lambda feeds: {"score": feeds["tokens"].sum(axis=1)}


def test_integers_are_given_to_the_engine_in_its_own_type(gpu: Gpu, tmp_path: Path) -> None:
    give_token_plan(gpu)
    engine = load(tmp_path, inputs=TOKENS)
    tokens = np.array([[1, 2, 3, -(2**31)], [0, 0, 0, 2**31 - 1]], np.int64)
    engine.run({"tokens": tokens})
    assert gpu.plan.batches[-1]["tokens"].dtype == np.int32
    np.testing.assert_array_equal(gpu.plan.batches[-1]["tokens"], tokens)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**62])
def test_an_integer_that_the_engine_cannot_hold_is_refused(gpu: Gpu, tmp_path: Path, value: int) -> None:
    give_token_plan(gpu)
    engine = load(tmp_path, inputs=TOKENS)
    tokens = np.zeros((2, 4), np.int64)
    engine.run({"tokens": tokens})
    tokens[1, 2] = value
    with pytest.raises(StageError, match=rf"input tokens holds {value}, and the engine takes int32"):
        engine.run({"tokens": tokens})


@pytest.mark.parametrize("release", [release for release in RELEASES if not release.startswith("8.")])
def test_later_releases_take_64_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str) -> None:
    gpu = Gpu(release, monkeypatch)
    give_token_plan(gpu, "INT64")
    tokens = np.full((2, 4), 2**40, np.int64)
    load(tmp_path, inputs=TOKENS).run({"tokens": tokens})
    np.testing.assert_array_equal(gpu.plan.batches[-1]["tokens"], tokens)


def test_an_input_in_another_order_of_memory_is_no_harm(gpu: Gpu, tmp_path: Path) -> None:
    features = np.asfortranarray(make_features(6))
    outputs = load(tmp_path).run({"features": features[::2]})
    np.testing.assert_allclose(outputs["score"], score(features[::2]), atol=1e-6)
    assert gpu.plan.batches


def test_half_precision_comes_back_as_it_is(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.types["score"] = "HALF"
    outputs = load(tmp_path).run({"features": make_features(2)})
    assert outputs["score"].dtype == np.float16


def test_a_type_that_numpy_lacks_is_named(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.types["score"] = "FP8"
    with pytest.raises(StageError, match=r"the engine's score is of type FP8, which NumPy does not have"):
        load(tmp_path).run({"features": make_features(2)})


def test_an_output_whose_shape_depends_on_values_is_refused_each_time(gpu: Gpu, tmp_path: Path) -> None:
    gpu.plan.shape_of = lambda _shapes: (-1,)
    engine = load(tmp_path)
    for _ in range(2):
        with pytest.raises(StageError, match="the shape of output score depends on the values of the inputs"):
            engine.run({"features": make_features(2)})


def test_after_a_failure_the_same_shape_is_prepared_anew(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path)
    check(engine, 2)
    gpu.driver.failing["cuMemAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    for _ in range(2):
        with pytest.raises(CudaError, match="cuMemAlloc of"):
            engine.run({"features": make_features(16)})
    gpu.driver.failing.clear()
    check(engine, 16)
    check(engine, 2)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("IExecutionContext.set_input_shape", r"the shape \(2, 4\) of features"),
        ("IExecutionContext.set_tensor_address", "the address of features"),
        ("IExecutionContext.execute_async_v3", "the batch"),
    ],
)
def test_what_tensorrt_does_not_take_is_named_with_its_reason(gpu: Gpu, tmp_path: Path, name: str, what: str) -> None:
    engine = load(tmp_path)

    def refuse(*_: object) -> bool:
        gpu.say(engine, "Error Code 3: API usage error")
        return False

    gpu.fake.on(name, refuse)
    with pytest.raises(StageError, match=rf"TensorRT does not take {what}: Error Code 3: API usage error"):
        engine.run({"features": make_features(2)})


def test_a_plan_that_tensorrt_cannot_load_is_named_with_the_reason(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path, BUCKETS)

    def refuse(*_: object) -> None:
        gpu.say(engine, "Error Code 1: serialized engine of another version")

    gpu.fake.on("Runtime.deserialize_cuda_engine", refuse)
    with pytest.raises(StageError) as caught:
        engine.run({"features": make_features(2)})
    assert str(caught.value) == (
        f"TensorRT {gpu.fake.version} cannot load engine-batch8.plan: Error Code 1: serialized engine of another"
        " version"
    )


def test_an_engine_without_room_for_its_context_says_so(gpu: Gpu, tmp_path: Path) -> None:
    gpu.fake.on("ICudaEngine.create_execution_context", lambda *_: None)
    with pytest.raises(StageError, match="TensorRT cannot run the engine: it gave no reason"):
        load(tmp_path).run({"features": make_features(2)})


def test_a_folder_that_holds_no_engine_opens_no_device(gpu: Gpu, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="TensorRT cannot load the engine"):
        TensorRtBackend().load(tmp_path)
    assert gpu.driver.calls == []


def test_plugins_of_the_engine_are_loaded_with_it(gpu: Gpu, tmp_path: Path) -> None:
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"")
    job = make_job(tmp_path).model_copy(update={"plugins": (library,)})
    PlanIndex.describe(job, profiles_of(job.dims), {"score": ("batch",)}).write(job.plan, job.plugins)
    TensorRtBackend().load(job.plan)
    (found,) = gpu.fake.arguments("IPluginRegistry.load_library")
    assert found["plugin_path"] == str(job.plan / "plugins" / "libplugin.so")


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "plain"])
def test_a_timed_call_copies_nothing_and_is_the_time_on_the_device(gpu: Gpu, tmp_path: Path, cuda_graph: bool) -> None:
    call = load(tmp_path, cuda_graph=cuda_graph).timed_call({"features": make_features(8)})
    before = len(gpu.driver.calls)
    assert [call(), call()] == [1.5, 1.5]
    assert not any("Memcpy" in name or "Alloc" in name for name in gpu.driver.calls[before:])
    assert (gpu.driver.calls[before:].count("cuGraphLaunch") == 2) == cuda_graph


def test_the_layers_are_those_of_the_inspector_with_the_median_of_their_times(gpu: Gpu, tmp_path: Path) -> None:
    layer = {
        "Name": "gemm",
        "LayerType": "gemm",
        "TacticName": "sm80_xmma",
        "Inputs": [{"Format/Datatype": "Half"}, {"Format/Datatype": "Half"}],
        "Outputs": [{"Format/Datatype": "Float"}],
    }
    texts = [json.dumps(layer), '"a name only"', '{"Name": "an unescaped \x1e", "LayerType": "x"}']
    gpu.fake.on("ICudaEngine.num_layers", len(texts))
    gpu.fake.on("EngineInspector.get_layer_information", lambda _inspector, number, _format: texts[number])
    engine = load(tmp_path)
    check(engine, 2)
    calls = gpu.plan.plain_calls
    gemm, sigmoid = engine.layer_times({"features": make_features(2)})
    assert (gemm.name, gemm.kind, gemm.formats, gemm.tactic, gemm.time_ms) == (
        "gemm",
        "gemm",
        "Float, Half",
        "sm80_xmma",
        0.5,
    )
    assert (sigmoid.name, sigmoid.kind, sigmoid.formats, sigmoid.time_ms) == ("sigmoid", "", "", 0.25)
    assert gpu.plan.plain_calls - calls == CALLS, "a graph would hide the layers"
    check(engine, 2, seed=1)


@pytest.mark.parametrize("text", ['{"Name": [', "", "{}"])
def test_layers_are_timed_even_if_the_inspector_cannot_be_read(gpu: Gpu, tmp_path: Path, text: str) -> None:
    gpu.fake.on("ICudaEngine.num_layers", 1)
    gpu.fake.on("EngineInspector.get_layer_information", lambda *_: text)
    found = load(tmp_path).layer_times({"features": make_features(2)})
    assert [(layer.name, layer.kind) for layer in found] == [("gemm", ""), ("sigmoid", "")]


def test_an_engine_that_is_gone_has_freed_its_memory(gpu: Gpu, tmp_path: Path) -> None:
    engine = load(tmp_path, BUCKETS)
    for low, high in pairwise([1, 5, 16]):
        check(engine, low)
        check(engine, high)
    del engine
    assert +gpu.driver.alive == {}
