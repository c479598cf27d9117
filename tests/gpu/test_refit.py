"""New weights in plans that were built, and plans for a compute capability, on a real GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tasks.backends.interface import BuildJob, RefitBase
from tasks.backends.trt import TensorRtBackend
from tasks.declared import Dim, InputSpec
from tasks.graphs.structure import structure_digest, weight_names
from tasks.process.child import ignore_progress
from tasks.samples.shapes import seeded_feeds
from tasks.specs import BuildSpec, Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.refit import PassedBuild, keep_passed
from tests.tasks.tiny import put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import EngineJob

OPSET = 17
SAME_AS_ORT = 5e-3
CLOSE = {"fp32": 1e-4, "fp16": 2e-2}
# A net each of what TensorRT keeps weights of: what is computed of `x`, the shape of that, and those of the weights.
CONVOLUTION = (
    "c = Conv<pads=[1,1,1,1]>(x, w, b) n = BatchNormalization(c, s, t, m, q) r = Relu(n)"
    " d = Conv<pads=[1,1,1,1]>(r, v) z = Add(d, x) y = ConvTranspose<strides=[2,2]>(z, u)"
)
ATTENTION = (
    "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t)"
    " p = Softmax<axis=-1>(s) o = MatMul(p, v) z = Add(o, x) y = LayerNormalization(z, g, h)"
)
NETS: dict[str, tuple[str, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "product": (
        "p = MatMul(x, w) a = Add(p, b) r = Relu(a) y = Gemm(r, v, c)",
        (32,),
        {"w": (32, 64), "b": (64,), "v": (64, 8), "c": (8,)},
    ),
    "convolution": (
        CONVOLUTION,
        (16, 8, 8),
        {"w": (16, 16, 3, 3), **dict.fromkeys("bstmq", (16,)), "v": (16, 16, 3, 3), "u": (16, 8, 2, 2)},
    ),
    "attention": (ATTENTION, (24, 32), {**dict.fromkeys("abc", (32, 32)), "g": (32,), "h": (32,)}),
}


def write_net(path: Path, name: str, precision: str, seed: int) -> Path:
    """A net with random weights."""
    body, shape, weights = NETS[name]
    dtype = {"fp32": np.float32, "fp16": np.float16}[precision]
    inner, cast = ("", "") if precision == "fp32" else ("x = Cast<to=10>(input) ", " output = Cast<to=1>(y)")
    given, gives = ("x", "y") if precision == "fp32" else ("input", "output")
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {OPSET}]> net (float[batch,{",".join(map(str, shape))}] {given})'
        f" => (float {gives}) {{ {inner}{body}{cast} }}"
    )
    random = np.random.default_rng(seed)
    for tensor, extents in weights.items():
        values = np.abs(random.standard_normal(extents)) * 0.2 + 0.05
        signs = 1 if tensor == "q" else random.choice([-1, 1], extents)
        model.graph.initializer.append(numpy_helper.from_array((values * signs).astype(dtype), tensor))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def expected(path: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    import onnxruntime  # noqa: PLC0415 - loads native libraries

    (found,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    return np.asarray(found)


def job_of(path: Path, plan: Path, precision: str, **settings: bool) -> BuildJob:
    plan.mkdir()
    (given,) = onnx.load(path).graph.input
    shape = ["batch", *(axis.dim_value for axis in given.type.tensor_type.shape.dim[1:])]
    return BuildJob(
        onnx=path,
        plan=plan,
        precision=Precision(precision),
        inputs={given.name: InputSpec(dtype="float32", shape=tuple(shape))},
        dims={"batch": Dim(min=1, opt=4, max=8)},
        settings=BuildSpec(**settings),
    )


@pytest.mark.parametrize("precision", list(CLOSE))
@pytest.mark.parametrize("name", list(NETS))
def test_a_refitted_plan_computes_what_the_new_graph_says(tmp_path: Path, name: str, precision: str) -> None:
    before, after = (write_net(tmp_path / f"{seed}.onnx", name, precision, seed) for seed in (1, 2))
    assert structure_digest(before) == structure_digest(after)
    backend = TensorRtBackend()
    base = job_of(before, tmp_path / "base", precision, refit=True)
    backend.build(base, ignore_progress)
    refitted = job_of(after, tmp_path / "refitted", precision, refit=True)
    backend.refit(refitted, RefitBase(plan=base.plan, onnx=base.onnx))
    (given,) = refitted.inputs
    feeds = {given: np.random.default_rng(0).standard_normal((4, *NETS[name][1])).astype(np.float32)}
    (found,) = backend.load(refitted.plan).run(feeds).values()
    right, wrong = expected(after, feeds), expected(before, feeds)
    scale = np.abs(right).max()
    assert np.abs(wrong - right).max() > 0.1 * scale, "the two versions must be told apart"
    np.testing.assert_allclose(found, right, atol=CLOSE[precision] * scale)
    (old,) = backend.load(base.plan).run(feeds).values()
    np.testing.assert_allclose(old, wrong, atol=CLOSE[precision] * np.abs(wrong).max())


def other_weights(context: StageContext, work: EngineJob, folder: Path) -> EngineJob:
    """The job of a version in which the heaviest weights are other ones."""
    typed = work.typed
    model = onnx.load(str(context.store.fetch(typed.onnx, folder) / "model.onnx"))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in weight_names(model)]
    heaviest = max(weights, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(heaviest)
    heaviest.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=-1), heaviest.name))
    onnx_file = put(context.store, {"model.onnx": model.SerializeToString()})
    return work.model_copy(update={"typed": typed.model_copy(update={"onnx": onnx_file})})


def test_an_example_is_refitted_by_the_stage_and_gives_what_its_new_graph_gives(
    gpu_bench: StageContext, example_job: Callable[[str], EngineJob], target: str, tmp_path: Path
) -> None:
    import onnxruntime  # noqa: PLC0415 - loads native libraries

    work, store = example_job(f"essay-scorer-{target}-fp16"), gpu_bench.store
    spec = work.spec.model_copy(update={"build": work.spec.build.model_copy(update={"refit": True})})
    work = work.model_copy(update={"spec": spec})
    base = build_engine(gpu_bench, work).result
    assert base.structure
    keep_passed(store, base.structure, PassedBuild(plan=base.plan, onnx=work.typed.onnx))
    new = other_weights(gpu_bench, work, tmp_path / "old")
    made = build_engine(gpu_bench, new).result
    assert made.refitted_from == base.plan.digest, made.warnings
    compare_engine(gpu_bench, new, made)
    feeds = seeded_feeds(spec.inputs, {name: dim.opt for name, dim in spec.dims.items()})
    found, old = (
        TensorRtBackend().load(store.fetch(one.plan, tmp_path / str(number))).run(feeds)
        for number, one in enumerate((made, base))
    )
    model = store.fetch(new.typed.onnx, tmp_path / "new") / "model.onnx"
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for name, right in zip(spec.outputs, session.run(list(spec.outputs), feeds), strict=True):
        np.testing.assert_allclose(found[name], right, atol=SAME_AS_ORT, err_msg=name)
        assert np.abs(old[name] - right).max() > 2 * SAME_AS_ORT, "the two versions must be told apart"


def test_a_plan_for_a_compute_capability_computes_what_its_graph_says(tmp_path: Path) -> None:
    path = write_net(tmp_path / "net.onnx", "product", "fp16", 1)
    made = job_of(path, tmp_path / "plan", "fp16", hardware_compatible=True)
    TensorRtBackend().build(made, ignore_progress)
    feeds = {"input": np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)}
    (found,) = TensorRtBackend().load(made.plan).run(feeds).values()
    right = expected(path, feeds)
    np.testing.assert_allclose(found, right, atol=CLOSE["fp16"] * np.abs(right).max())
