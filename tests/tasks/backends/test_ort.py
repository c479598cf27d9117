from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tasks.backends import ort as backend_module
from tasks.backends.ort import OnnxRuntimeBackend, OnnxRuntimeEngine
from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.specs import BuildSpec, Precision
from tests.tasks.noise_floor import LIBRARY, noise_floor, write_floor
from tests.tasks.tiny import SCORER, build_job, make_features, score, write_onnx

if TYPE_CHECKING:
    from pathlib import Path


def build(folder: Path, **graph: str) -> Path:
    plan = folder / "plan"
    plan.mkdir()
    assert OnnxRuntimeBackend().build(build_job(write_onnx(folder / "onnx", **graph), plan), ignore_progress) == ()
    return plan


@pytest.mark.parametrize("samples", [1, 3, 16, 100])
def test_a_built_engine_computes_what_its_graph_says_at_every_batch(tmp_path: Path, samples: int) -> None:
    engine = OnnxRuntimeBackend().load(build(tmp_path))
    features = make_features(samples)
    outputs = engine.run({"features": features})
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "score": ((samples,), "float32")
    }
    np.testing.assert_allclose(outputs["score"], score(features), atol=1e-6)


def test_an_engine_is_optimised_ahead_of_time(tmp_path: Path) -> None:
    plan = build(tmp_path, body="two = Constant<value_float=2.0>() z = Mul(w, two) p = Mul(features, z)"
                 " t = ReduceSum<keepdims=0>(p, one) score = Sigmoid(t)")  # fmt: skip
    nodes = [node.op_type for node in onnx.load(plan / "engine.onnx").graph.node]
    assert [path.name for path in plan.iterdir()] == ["engine.onnx"]
    assert nodes.count("Mul") == 1
    assert "Constant" not in nodes


def test_the_same_graph_built_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    plans = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        plans.append((build(tmp_path / name) / "engine.onnx").read_bytes())
    assert plans[0] == plans[1]
    assert str(tmp_path).encode() not in plans[0]


def test_large_weights_lie_beside_the_engine_and_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "EXTERNAL_WEIGHTS_BYTES", 100)
    many = ", ".join(f"{value:.3f}" for value in np.linspace(0, 1, 1200))
    plan = build(
        tmp_path,
        body=f"m = Constant<value_floats=[{many}]>() s = ReduceMean<keepdims=0>(m)"
        " p = Mul(features, w) t = ReduceSum<keepdims=0>(p, one) score = Add(t, s)",
    )
    moved = plan.rename(tmp_path / "moved")
    features = make_features(2)
    assert OnnxRuntimeBackend().load(moved).run({"features": features})["score"].shape == (2,)


@pytest.mark.parametrize("outputs", ["float[batch] score", "float[4] score", "float[batch,2] score"])
def test_the_axes_of_outputs_are_read_of_the_file_as_the_runtime_says_them(
    tmp_path: Path, outputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "score = Identity(w)" if "[4]" in outputs else SCORER
    if "2" in outputs:
        body = SCORER.replace("score =", "s =") + " u = Unsqueeze(s, one) score = Concat<axis=1>(u, u)"
    plan = build(tmp_path, body=body, outputs=outputs)
    (said,) = ort.InferenceSession(plan / "engine.onnx").get_outputs()
    monkeypatch.setattr("onnxruntime.InferenceSession", None)  # one that crashes at its start would end this process
    assert OnnxRuntimeBackend().output_axes(plan) == {"score": tuple(said.shape)}


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x09"])
def test_what_is_no_graph_cannot_be_built_or_loaded(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "engine.onnx").write_bytes(content)
    (tmp_path / "plan").mkdir()
    with pytest.raises(StageError, match="ONNX Runtime cannot build an engine from the converted model"):
        OnnxRuntimeBackend().build(build_job(tmp_path / "engine.onnx", tmp_path / "plan"), ignore_progress)
    with pytest.raises(StageError, match="ONNX Runtime cannot load the engine"):
        OnnxRuntimeBackend().load(tmp_path)
    with pytest.raises(StageError, match="ONNX Runtime cannot load the engine"):
        OnnxRuntimeBackend().load(tmp_path / "nowhere")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StageError, match="ONNX Runtime cannot load the engine"):
            OnnxRuntimeBackend().output_axes(place)


def test_an_operator_that_no_one_knows_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(?s)cannot build.*Sigmund"):
        build(tmp_path, body="score = Sigmund(features)")


def test_the_identity_names_the_runtime_and_the_processor_and_no_host() -> None:
    identity = OnnxRuntimeBackend().identity()
    assert (identity.name, identity.version) == ("onnxruntime", ort.__version__)
    assert identity.device.endswith(" cores")
    assert identity == OnnxRuntimeBackend().identity()
    assert OnnxRuntimeBackend().options(BuildSpec(), Precision.INT8) == {"graph_optimization_level": "extended"}


# FP16

HALF = "h = Cast<to=10>(features) {} score = Cast<to=1>(y)"
RMS_NORM = (
    "s = Mul(h, h) m = ReduceMean<keepdims=1>(s, one) q = Sqrt(m) r = Div(h, q) y = ReduceSum<keepdims=0>(r, one)"
)


def half_engine(folder: Path, body: str) -> OnnxRuntimeEngine:
    (folder / "plan").mkdir()
    job = build_job(write_onnx(folder / "onnx", body=HALF.format(body)), folder / "plan")
    OnnxRuntimeBackend().build(job.model_copy(update={"precision": Precision.FP16}), ignore_progress)
    return OnnxRuntimeBackend().load(folder / "plan")


def test_an_fp16_engine_overflows_where_half_precision_does(tmp_path: Path) -> None:
    """The square of 300 is beyond 65504, so the RMS is infinite and its inverse zero."""
    engine = half_engine(tmp_path, RMS_NORM)
    features = np.full((3, 4), 300, np.float32)
    np.testing.assert_array_equal(engine.run({"features": features})["score"], 0)
    np.testing.assert_allclose(engine.run({"features": features / 2})["score"], 4, rtol=1e-2)


def test_an_fp16_engine_rounds_after_each_operation_as_numpy_does(tmp_path: Path) -> None:
    engine = half_engine(tmp_path, "a = Mul(h, h) b = Add(a, h) c = Tanh(b) y = ReduceMax<keepdims=0>(c, one)")
    features = make_features(64)
    half = features.astype(np.float16)
    tanh = np.tanh((half * half + half).astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(engine.run({"features": features})["score"], tanh.max(axis=1).astype(np.float32))


def test_the_rounding_lies_in_the_bytes_and_no_loader_takes_it_out(tmp_path: Path) -> None:
    half_engine(tmp_path, RMS_NORM)
    features = np.full((1, 4), 300, np.float32)
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(tmp_path / "plan" / "engine.onnx", options, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"features": features})[0], 0)


def test_the_options_say_that_fp16_rounds_so_that_no_engine_of_before_is_taken_for_one_that_does() -> None:
    options = OnnxRuntimeBackend().options(BuildSpec(), Precision.FP16)
    assert options["fp16"] == "rounded after each operation"


# CUSTOM OPERATIONS


def test_an_engine_holds_the_libraries_of_its_operations_and_runs_wherever_it_is_moved(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    job = build_job(write_floor(tmp_path / "onnx"), tmp_path / "plan")
    assert OnnxRuntimeBackend().build(job, ignore_progress) == ()
    moved = (tmp_path / "plan").rename(tmp_path / "moved")
    assert (moved / "plugins" / LIBRARY.name).read_bytes() == LIBRARY.read_bytes()
    features = make_features(3)
    np.testing.assert_array_equal(
        OnnxRuntimeBackend().load(moved).run({"features": features})["score"], noise_floor(features)
    )
    (moved / "plugins" / LIBRARY.name).write_bytes(b"not for this processor")
    with pytest.raises(StageError, match=rf"build.onnxruntime_plugins: {LIBRARY.name} cannot be loaded"):
        OnnxRuntimeBackend().load(moved)
