"""TensorRT on a real GPU: build, load, refuse, run out of time, crash, timing cache, INT8, dynamic shapes, gate."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.backends.fitting import choose_profile
from tasks.backends.gpu import find_gpu
from tasks.backends.interface import BuildJob
from tasks.backends.timing_cache import timing_cache_path
from tasks.backends.trt import TensorRtBackend, import_tensorrt
from tasks.backends.trt_plan import ATTENTION_LIBRARY
from tasks.declared import Dim, InputSpec
from tasks.errors import InputError, RefusedError, StageError
from tasks.graphs.onnx_files import fetched_model
from tasks.process.child import ChildFailedError, ignore_progress
from tasks.samples.shapes import seeded_feeds
from tasks.specs import BuildSpec, Precision
from tasks.stages.benchmark import benchmark_engine
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tests.tasks.tiny import job, make_features, put, put_data, put_model, score, tiny_spec, write_onnx
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import EngineJob

OPSET = 17
CHANNELS = 64
EXAMPLES = ("essay-scorer", "oral-scorer")
SAME_AS_ORT = 5e-3


def lowered(path: Path) -> Path:
    """The same graph as opset 17, which TensorRT 8.6 takes."""
    model = onnx.load(path)
    model.opset_import[0].version = OPSET
    onnx.save(model, path)
    return path


def put_lowered(context: StageContext, folder: Path) -> Any:
    typed = put_model(context.store, folder)
    return typed.model_copy(
        update={"onnx": put(context.store, {"model.onnx": lowered(folder / "model.onnx").read_bytes()})}
    )


def build(onnx_file: Path, plan: Path, **changes: Any) -> BuildJob:
    plan.mkdir()
    spec = tiny_spec()
    fields = {"inputs": spec.inputs, "dims": spec.dims, "settings": BuildSpec(), "precision": Precision.FP32, **changes}
    made = BuildJob(onnx=onnx_file, plan=plan, **fields)
    TensorRtBackend().build(made, ignore_progress)
    return made


def write_convolutions(path: Path, layers: int = 12) -> Path:
    """A chain of 3 x 3 convolutions with ReLU: many kernels to choose from, none of them compiled."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal((CHANNELS * (1 + n % 2), CHANNELS * (1 + (n + 1) % 2), 3, 3)) / 50).astype(np.float32),
            f"w{n}",
        )
        for n in range(1, layers + 1)
    ]
    nodes = []
    for n, weight in enumerate(weights):
        source = "x" if n == 0 else f"r{n - 1}"
        nodes.append(helper.make_node("Conv", [source, weight.name], [f"c{n}"], pads=[1, 1, 1, 1], name=f"conv{n}"))
        nodes.append(helper.make_node("Relu", [f"c{n}"], [f"r{n}" if n < layers - 1 else "y"], name=f"relu{n}"))
    first, last = weights[0].dims[1], weights[-1].dims[0]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", first, 56, 56])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", last, 56, 56])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9), path)
    return path


CONVOLUTION_INPUT = {"x": InputSpec(dtype="float32", shape=("batch", CHANNELS, 56, 56))}


def test_an_engine_computes_what_its_graph_says_at_min_opt_and_max(tmp_path: Path) -> None:
    build(lowered(write_onnx(tmp_path / "onnx")), tmp_path / "plan")
    engine = TensorRtBackend().load(tmp_path / "plan")
    for samples in (1, 3, 8, 16, 1):
        features = make_features(samples, seed=samples)
        np.testing.assert_allclose(engine.run({"features": features})["score"], score(features), atol=1e-5)


def test_a_bucket_pads_its_input_and_runs_as_a_graph(tmp_path: Path) -> None:
    dims = {"batch": Dim(min=1, opt=8, max=16, buckets=(4, 8, 16))}
    build(lowered(write_onnx(tmp_path / "onnx")), tmp_path / "plan", dims=dims)
    names = {path.name for path in (tmp_path / "plan").iterdir()}
    assert names == {"engine.json", "engine-batch4.plan", "engine-batch8.plan", "engine-batch16.plan"}
    engine = TensorRtBackend().load(tmp_path / "plan")
    assert set(engine.unused_plans()) == names - {"engine.json"}
    for samples in (1, 4, 5, 8, 9, 16):
        features = make_features(samples, seed=samples)
        found = engine.run({"features": features})["score"]
        assert found.shape == (samples,)
        np.testing.assert_allclose(found, score(features), atol=1e-5)
    assert engine.uses_graph
    assert engine.unused_plans() == ()
    assert choose_profile(TensorRtBackend().profiles(dims), {"batch": 5}).file == "engine-batch8.plan"


ATTENTION = """
<ir_version: 8, opset_import: ["": 17]>
attention (float[batch, positions, 128] hidden) => (float[batch, positions, 128] result)
<int64[4] four = {0, 0, 2, 64}, int64[3] three = {0, 0, 128}, float[1] eighth = {0.125}> {
    half = Cast<to=10>(hidden)
    split = Reshape(half, four)
    query = Transpose<perm=[0, 2, 1, 3]>(split)
    key = Transpose<perm=[0, 2, 3, 1]>(split)
    value = Transpose<perm=[0, 2, 1, 3]>(split)
    raw = MatMul(query, key)
    n = Cast<to=10>(eighth)
    scores = Mul(raw, n)
    shares = Softmax<axis=-1>(scores)
    product = MatMul(shares, value)
    back = Transpose<perm=[0, 2, 1, 3]>(product)
    joined = Reshape(back, three)
    result = Cast<to=1>(joined)
}
"""


def test_long_attention_is_computed_by_the_plugin_and_is_what_the_graph_says(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    onnx_file = tmp_path / "onnx" / "model.onnx"
    onnx.save(onnx.parser.parse_model(ATTENTION), onnx_file)
    dims = {"batch": Dim(min=1, opt=2, max=3), "positions": Dim(min=1, opt=700, max=1500)}
    inputs = {"hidden": InputSpec(dtype="float32", shape=("batch", "positions", 128))}
    build(onnx_file, tmp_path / "plan", dims=dims, inputs=inputs, precision=Precision.FP16)
    assert (tmp_path / "plan" / "plugins" / ATTENTION_LIBRARY).is_file()
    engine = TensorRtBackend().load(tmp_path / "plan")
    for batch, positions in ((1, 1), (2, 63), (3, 65), (1, 700), (3, 1500)):
        hidden = np.random.default_rng(positions).standard_normal((batch, positions, 128)).astype(np.float32)
        heads = hidden.astype(np.float16).astype(np.float32).reshape(batch, positions, 2, 64)
        scores = np.einsum("bqhd,bkhd->bhqk", heads, heads) / 8
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        right = np.einsum("bhqk,bkhd->bqhd", shares, heads).reshape(hidden.shape)
        np.testing.assert_allclose(engine.run({"hidden": hidden})["result"], right, atol=4e-3)


def test_polygraphy_runs_the_same_plan_to_the_same_outputs(tmp_path: Path) -> None:
    from polygraphy.backend.common import BytesFromPath  # noqa: PLC0415 - only GPU runners have it
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner  # noqa: PLC0415 - as above

    build(lowered(write_onnx(tmp_path / "onnx")), tmp_path / "plan")
    features = make_features(8)
    ours = TensorRtBackend().load(tmp_path / "plan").run({"features": features})["score"]
    with TrtRunner(EngineFromBytes(BytesFromPath(str(tmp_path / "plan" / "engine.plan")))) as runner:
        np.testing.assert_array_equal(runner.infer({"features": features})["score"], ours)


def test_an_engine_of_another_gpu_or_release_is_refused_before_it_is_read(
    gpu_bench: StageContext, tmp_path: Path, target: str
) -> None:
    work = job(gpu_bench.store, put_lowered(gpu_bench, tmp_path / "onnx"), target=target)
    engine = build_engine(gpu_bench, work).result
    t4 = engine.backend.model_copy(update={"device": "Tesla T4", "compute_capability": "7.5"})
    with pytest.raises(RefusedError, match=rf"built for Tesla T4 \(SM 7.5\).*this host has .*build target {target}"):
        compare_engine(gpu_bench, work, engine.model_copy(update={"backend": t4}))
    newer = engine.backend.model_copy(update={"version": "11.4.0"})
    with pytest.raises(RefusedError, match=r"with TensorRT 11.4.0; this host has .*install tensorrt==11.4.0 here"):
        benchmark_engine(gpu_bench, work, engine.model_copy(update={"backend": newer}))


def test_what_is_no_plan_is_a_failed_stage(tmp_path: Path) -> None:
    build(lowered(write_onnx(tmp_path / "onnx")), tmp_path / "plan")
    (tmp_path / "plan" / "engine.plan").write_bytes(b"no plan")
    with pytest.raises(StageError, match=r"cannot load engine\.plan"):
        TensorRtBackend().load(tmp_path / "plan").run({"features": make_features(1)})


def test_a_build_that_takes_too_long_is_stopped(gpu_bench: StageContext, tmp_path: Path, target: str) -> None:
    impatient = type(gpu_bench)(gpu_bench.store, time_limit_s=1.0)
    model = put(gpu_bench.store, {"model.onnx": write_convolutions(tmp_path / "model.onnx", layers=30).read_bytes()})
    spec = tiny_spec(inputs={"x": {"dtype": "float32", "shape": ["batch", CHANNELS, 56, 56]}})
    typed = put_model(gpu_bench.store, tmp_path / "onnx").model_copy(update={"onnx": model})
    started = time.monotonic()
    with pytest.raises(ChildFailedError, match="did not end within 1 s"):
        build_engine(impatient, job(gpu_bench.store, typed, spec=spec, target=target))
    assert time.monotonic() - started < 30


def test_a_builder_that_crashes_is_a_failed_stage_with_the_last_lines_of_its_log(
    gpu_bench: StageContext, tmp_path: Path, target: str
) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a plugin library that crashes")
    source = tmp_path / "crash.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void crash(void)"
        ' { puts("plugin says goodbye"); fflush(stdout); abort(); }\n'
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(tmp_path / "crash.so"), str(source)], check=True)
    plugins = put(gpu_bench.store, {"crash.so": (tmp_path / "crash.so").read_bytes()})
    work = job(gpu_bench.store, put_lowered(gpu_bench, tmp_path / "onnx"), target=target)
    with pytest.raises(ChildFailedError, match=r"(?s)was killed by SIGABRT.*plugin says goodbye"):
        build_engine(gpu_bench, work.model_copy(update={"plugins": plugins}))


def test_every_node_that_tensorrt_does_not_take_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {OPSET}, "acme" : 1]>'
        " two (float[batch,4] features) => (float[batch,4] score)"
        " { a = acme.Whirl(features)  b = Relu(a)  c = Hardmax(b)  score = acme.Twirl(c) }"
    )
    for node in model.graph.node:
        node.name = f"the_{node.op_type.lower()}"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError) as raised:
        build(tmp_path / "model.onnx", tmp_path / "plan")
    assert "the_whirl (Whirl): " in str(raised.value)
    assert "the_twirl (Twirl): " in str(raised.value)
    assert "the_hardmax (Hardmax): " in str(raised.value)  # TensorRT 8.6 has no such operation either
    assert "the_relu" not in str(raised.value)


def test_the_second_build_takes_a_third_of_the_time_of_the_first_with_a_timing_cache(tmp_path: Path) -> None:
    cache = timing_cache_path(tmp_path / "caches", TensorRtBackend().identity())
    model = write_convolutions(tmp_path / "model.onnx")
    seconds, warnings = [], []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        made = BuildJob(
            onnx=model,
            plan=tmp_path / str(number),
            precision=Precision.FP16,
            inputs=CONVOLUTION_INPUT,
            dims={"batch": Dim(min=8, opt=8, max=8)},
            settings=BuildSpec(),
            timing_cache=cache,
        )
        started = time.monotonic()
        warnings.append(TensorRtBackend().build(made, ignore_progress))
        seconds.append(time.monotonic() - started)
    if import_tensorrt().__version__ == "8.6.0" and warnings[1]:
        # An early-access release: seen on an H200 with driver 580, whatever the network.
        pytest.xfail(f"TensorRT 8.6.0 rejects the cache that it wrote itself: {warnings[1][0]}")
    assert warnings == [(), ()], f"the two builds took {seconds} s"
    assert seconds[0] / seconds[1] >= 3


def test_a_timing_cache_that_tensorrt_rejects_is_left_out_with_a_warning(tmp_path: Path) -> None:
    cache = tmp_path / "damaged.cache"
    cache.write_bytes(b"no cache at all")
    (tmp_path / "plan").mkdir()
    spec = tiny_spec()
    made = BuildJob(
        onnx=lowered(write_onnx(tmp_path / "onnx")),
        plan=tmp_path / "plan",
        precision=Precision.FP32,
        inputs=spec.inputs,
        dims=spec.dims,
        settings=BuildSpec(),
        timing_cache=cache,
    )
    warnings = TensorRtBackend().build(made, ignore_progress)
    assert [one for one in warnings if "damaged.cache is left out, since TensorRT rejects it" in one] != []
    assert cache.read_bytes() != b"no cache at all"


def test_the_identity_names_the_gpu_and_its_software() -> None:
    identity, gpu = TensorRtBackend().identity(), find_gpu()
    assert (identity.name, identity.version) == ("tensorrt", import_tensorrt().__version__)
    assert (identity.device, identity.compute_capability, identity.driver, identity.cuda) == (
        gpu.name,
        gpu.compute_capability,
        gpu.driver,
        gpu.cuda,
    )
    assert gpu.uuid.startswith(("GPU-", "MIG-"))


def test_a_benchmark_tells_latency_memory_and_layers(gpu_bench: StageContext, tmp_path: Path, target: str) -> None:
    data = put_data(gpu_bench.store, [{"features": make_features(20)}])
    work = job(gpu_bench.store, put_lowered(gpu_bench, tmp_path / "onnx"), target=target, data=data)
    engine = build_engine(gpu_bench, work).result
    found = benchmark_engine(gpu_bench, work, engine).result
    assert [one.batch for one in found.engine.latencies] == [1, 8, 16]
    assert all(0 < one.p50_ms <= one.p99_ms < 100 for one in found.engine.latencies)
    assert found.engine.device_memory_bytes is not None
    assert found.engine.device_memory_bytes >= 0
    assert found.layers is not None


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_example_passes_its_gate(
    gpu_bench: StageContext, example_job: Callable[[str], EngineJob], target: str, name: str, precision: str
) -> None:
    work = example_job(f"{name}-{target}-{precision}")
    engine = build_engine(gpu_bench, work).result
    compared = compare_engine(gpu_bench, work, engine).result
    verdict = decide(work.policy, compared.comparison)
    known = (name, precision, import_tensorrt().__version__) == ("essay-scorer", "int8", "8.6.0")
    if known and verdict.outcome is Outcome.FAIL:
        pytest.xfail(
            "TensorRT 8.6.0 chooses a wrong kernel for this model in 18 of 42 builds, in polygraphy's runner too"
        )
    assert verdict.outcome is Outcome.PASS, [rule.sentence for rule in verdict.rules]
    assert engine.backend == TensorRtBackend().identity()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_onnx_runtime_gives_at_every_corner_of_its_dims(
    gpu_bench: StageContext, example_job: Callable[[str], EngineJob], target: str, tmp_path: Path, name: str
) -> None:
    import onnxruntime  # noqa: PLC0415 - loads native libraries

    work = example_job(f"{name}-{target}-fp16")
    engine = TensorRtBackend().load(gpu_bench.store.fetch(build_engine(gpu_bench, work).result.plan, tmp_path / "plan"))
    model = fetched_model(gpu_bench.store.fetch(work.typed.onnx, tmp_path / "onnx"))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for which in ("min", "opt", "max"):
        feeds = seeded_feeds(work.spec.inputs, {dim: getattr(extent, which) for dim, extent in work.spec.dims.items()})
        expected = dict(zip(work.spec.outputs, session.run(list(work.spec.outputs), feeds), strict=True))
        for output, found in engine.run(feeds).items():
            np.testing.assert_allclose(found, expected[output], atol=SAME_AS_ORT, err_msg=f"{output} at {which}")


def test_a_damaged_example_fails_its_gate(
    gpu_bench: StageContext, example_job: Callable[[str], EngineJob], target: str, tmp_path: Path
) -> None:
    work = example_job(f"essay-scorer-{target}-fp16")
    model = onnx.load(str(fetched_model(gpu_bench.store.fetch(work.typed.onnx, tmp_path / "onnx"))))
    heaviest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights = numpy_helper.to_array(heaviest)
    heaviest.CopyFrom(numpy_helper.from_array(np.roll(weights, 1, axis=-1), heaviest.name))
    damaged = work.typed.model_copy(update={"onnx": put(gpu_bench.store, {"model.onnx": model.SerializeToString()})})
    work = work.model_copy(update={"typed": damaged})
    engine = build_engine(gpu_bench, work).result
    assert decide(work.policy, compare_engine(gpu_bench, work, engine).result.comparison).outcome is Outcome.FAIL
