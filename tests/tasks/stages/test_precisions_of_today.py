"""FP8 and BF16: converted as TensorRT takes them, and on `cpu` with the rounding of their types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from tasks.backends.interface import BuildJob
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import InputError, StageError
from tasks.quantization import converter_table as table
from tasks.samples.npz import load_arrays, shard_paths
from tasks.specs import CalibrationMethod, CalibrationSpec, Precision
from tasks.stages.convert import convert_precision

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import TypedModel
    from tests.tasks.stages.conftest import SharedEncoder

ENTROPY = CalibrationSpec(set="x", method=CalibrationMethod.ENTROPY)


def convert(encoder: SharedEncoder, precision: Precision, **options: Any) -> TypedModel:
    made = encoder.made
    spec = made.spec.model_copy(update={"calibration": ENTROPY})
    return convert_precision(
        encoder.context, made.exported, precision, spec, made.data, data=made.data, **options
    ).result


def loaded(encoder: SharedEncoder, typed: TypedModel, folder: Path) -> onnx.ModelProto:
    return onnx.load(encoder.context.store.fetch(typed.onnx, folder) / "model.onnx")


def relative_error(encoder: SharedEncoder, typed: TypedModel, folder: Path) -> float:
    """Of the engine on `cpu`, as it is built and loaded, against the exported graph: relative L2 on the worst shard."""
    made, store, backend = encoder.made, encoder.context.store, OnnxRuntimeBackend()
    (folder / "plan").mkdir(parents=True)
    job = BuildJob(
        onnx=store.fetch(typed.onnx, folder / "onnx") / "model.onnx",
        plan=folder / "plan",
        precision=typed.precision,
        inputs=made.spec.inputs,
        dims=made.spec.dims,
        settings=made.spec.build,
    )
    backend.build(job, lambda *_: None)
    engine = backend.load(job.plan)
    exact = ort.InferenceSession(
        store.fetch(made.exported.onnx, folder / "exact") / "model.onnx", providers=["CPUExecutionProvider"]
    )
    errors = []
    for path in shard_paths(store.fetch(made.data.inputs, folder / "data")):
        feeds = load_arrays(path)
        pairs = zip(engine.run(feeds).values(), exact.run(None, feeds), strict=True)
        errors += [float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs]
    return max(errors)


def test_fp8_has_pairs_of_e4m3_and_half_precision_around_them(exported_encoder: SharedEncoder, tmp_path: Path) -> None:
    typed = convert(exported_encoder, Precision.FP8)
    model = onnx.shape_inference.infer_shapes(loaded(exported_encoder, typed, tmp_path / "onnx"))
    onnx.checker.check_model(model, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    by_kind = {
        kind: [types[node.output[0]] for node in model.graph.node if node.op_type == kind]
        for kind in ("QuantizeLinear", "DequantizeLinear", "MatMul", "LayerNormalization")
    }
    assert set(by_kind.pop("QuantizeLinear")) == {TensorProto.FLOAT8E4M3FN}
    assert {kind for kinds in by_kind.values() for kind in kinds} == {TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}


def test_fp8_says_its_method_and_set_whatever_the_method_of_int8_is(exported_encoder: SharedEncoder) -> None:
    recipe = convert(exported_encoder, Precision.FP8).recipe
    assert (recipe["converter"], recipe["method"]) == ("modelopt-fp8", "max")
    assert recipe["calibration"] == exported_encoder.made.data.inputs.digest


def test_on_cpu_each_precision_errs_as_its_type_rounds(exported_encoder: SharedEncoder, tmp_path: Path) -> None:
    """BF16 has 3 bits less than FP16, E4M3 of FP8 another 4, in the products alone."""
    errors = {
        precision: relative_error(exported_encoder, convert(exported_encoder, precision), tmp_path / precision.value)
        for precision in (Precision.FP16, Precision.BF16, Precision.FP8)
    }
    half, brain, eight = errors.values()
    assert 3 < brain / half < 20, errors
    assert 2 < eight / brain < 30, errors
    assert eight < 0.05, errors


def test_bf16_leaves_nothing_in_fp32_for_its_range(exported_encoder: SharedEncoder, tmp_path: Path) -> None:
    model = loaded(exported_encoder, convert(exported_encoder, Precision.BF16), tmp_path / "onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64}
    assert TensorProto.BFLOAT16 in kinds
    assert TensorProto.FLOAT16 not in kinds


def test_fp8_without_a_calibration_set_is_bad_input(exported_encoder: SharedEncoder) -> None:
    made = exported_encoder.made
    with pytest.raises(InputError, match="precision fp8 needs it"):
        convert_precision(exported_encoder.context, made.exported, Precision.FP8, made.spec, None)


def test_layers_are_left_out_of_int8_alone(exported_encoder: SharedEncoder) -> None:
    with pytest.raises(StageError, match="layers are left out of int8 alone, not of fp8"):
        convert(exported_encoder, Precision.FP8, exclude=("x",))


def test_where_fp8_fails_nothing_else_is_tried_and_the_remedy_is_named(
    exported_encoder: SharedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "FP8", replace(table.FP8, function="missing", parameters={}))
    with pytest.raises(StageError, match=r"^convert: fp8 failed, and there is no other converter for it; use fp16\.\n"):
        convert(exported_encoder, Precision.FP8)
