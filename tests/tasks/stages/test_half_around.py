"""INT8 for builders that take types as they are: FP16 around the Q/DQ nodes."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.graphs.onnx_files import opset_of
from tasks.quantization import converter_table as table
from tasks.specs import CalibrationMethod, CalibrationSpec, Precision
from tasks.stages import half_around
from tasks.stages.build import build_engine
from tasks.stages.convert import convert_precision
from tests.tasks.in_process import InProcess
from tests.tasks.tiny import cell, job, put_model

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import TypedModel
    from tasks.store.stage_cache import StageResult
    from tests.tasks.stages.conftest import SharedEncoder


def convert(encoder: SharedEncoder, context: StageContext | None = None, **options: Any) -> StageResult[TypedModel]:
    made = encoder.made
    minmax = CalibrationSpec(set="x", method=CalibrationMethod.MINMAX)
    return convert_precision(
        context or encoder.context,
        made.exported,
        Precision.INT8,
        made.spec.model_copy(update={"calibration": minmax}),
        made.data,
        data=made.data,
        **options,
    )


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


def test_products_that_are_not_quantized_are_fp16_and_what_goes_in_and_out_keeps_its_type(
    exported_encoder: SharedEncoder, tmp_path: Path
) -> None:
    typed = convert(exported_encoder, half=True).result
    assert typed.half is not None
    store = exported_encoder.context.store
    whole, half = (
        onnx.load(store.fetch(one.onnx, tmp_path / one.onnx.digest[7:]) / "model.onnx") for one in (typed, typed.half)
    )
    for model, expected in ((whole, TensorProto.FLOAT), (half, TensorProto.FLOAT16)):
        types = types_of(onnx.shape_inference.infer_shapes(model).graph)
        found = {types[node.output[0]] for node in model.graph.node if node.op_type == "MatMul"}
        assert found == {expected}
    kinds = [[node.op_type for node in model.graph.node].count("QuantizeLinear") for model in (whole, half)]
    assert kinds[0] == kinds[1] > 0
    sides = [[value.SerializeToString() for value in (*m.graph.input, *m.graph.output)] for m in (whole, half)]
    assert sides[0] == sides[1]
    assert typed.half.recipe["opset"] == str(opset_of(half))
    assert typed.half.recipe["around"].startswith("fp16 by modelopt-autocast nvidia-modelopt ")


def test_only_who_asks_for_it_gets_it_and_the_graph_without_stays_as_it_is(exported_encoder: SharedEncoder) -> None:
    without, with_it = convert(exported_encoder), convert(exported_encoder, half=True)
    assert without.result.half is None
    assert with_it.result.model_copy(update={"half": None}) == without.result
    assert "half" not in without.result.model_dump(), "records of before read and write as they did"
    assert convert(exported_encoder, half=True).cached


def test_where_it_cannot_be_had_int8_is_made_without_and_that_is_told(
    exported_encoder: SharedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_raw: object, _progress: object) -> dict[str, str]:
        raise RuntimeError("no such cast")

    told: list[str] = []
    monkeypatch.setitem(sys.modules, "tasks.quantization.broken", SimpleNamespace(convert=fail))
    monkeypatch.setattr(half_around, "CONVERTER", replace(table.FP16[0], name="broken", module="broken"))
    context = InProcess(exported_encoder.context.store)
    typed = convert(exported_encoder, replace(context, on_warning=told.append), half=True).result
    assert typed.half is None
    (warning,) = told
    assert warning.startswith("int8: what is not quantized stays in FP32 where TensorRT is 10.12 or newer")
    assert "no such cast" in warning


@pytest.mark.parametrize("takes_types", [True, False])
def test_a_builder_that_takes_types_gets_it_and_its_key_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: StageContext, takes_types: bool
) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "takes_types", lambda _self: takes_types)
    typed = put_model(context.store, tmp_path / "onnx")
    half = put_model(context.store, tmp_path / "half", body="t = ReduceSum<keepdims=0>(features, one) score = Tanh(t)")
    both = job(context.store, typed.model_copy(update={"half": half})).model_copy(update={"cell": cell("int8")})
    built = build_engine(context, both).result
    assert built.onnx == (half if takes_types else typed).onnx.digest
    alone = both.model_copy(update={"typed": half if takes_types else typed})
    assert build_engine(context, alone).result.cache_key == built.cache_key


def test_cells_of_tensorrt_want_it_for_int8_alone() -> None:
    cells = [cell(precision, target=target) for target in ("cpu", "t4") for precision in ("fp16", "int8")]
    assert [one.wants_half for one in cells] == [False, False, False, True]
