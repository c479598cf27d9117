"""Stage 2 of INT8 for builders that take types as they are: FP16 around the Q/DQ nodes of the converted graph.

TensorRT from 10.12 on runs in FP32 what the graph leaves in FP32: of a transformer the products of attention, the
softmax and the norms. 8.6 chooses for itself, by a flag, and takes no Q/DQ nodes in FP16: it keeps the graph it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.graphs import onnx_files
from tasks.graphs.interface import MOST_HALF_ERROR, CheckTypedRequest
from tasks.process.child import ignore_progress
from tasks.quantization.converter_table import FP16
from tasks.quantization.interface import ConvertRequest
from tasks.records import DataArtifact, TypedModel
from tasks.specs import ModelSpec, Precision
from tasks.stages.export import fetch_some
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext

RECIPE = 1
CONVERTER = FP16[0]


def add_half(
    context: StageContext, converted: StageResult[TypedModel], spec: ModelSpec, data: DataArtifact | None
) -> StageResult[TypedModel]:
    """The converted INT8 model with `half` beside it; `data` shows what FP16 must hold, noise does without.

    Raises:
        StageError: the converter failed, or ONNX Runtime does not load its graph or run it at every check shape.
    """
    typed = converted.result
    key: dict[str, object] = {
        "recipe": RECIPE,
        "onnx": typed.onnx.digest,
        "of": typed.recipe,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "converter": CONVERTER.describe(),
        "ranges": None if data is None else data.inputs.digest,
        "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
    }

    def produce(folder: Path) -> TypedModel:
        onnx = onnx_files.fetched_model(context.store.fetch(typed.onnx, folder / "onnx"))
        samples = None
        if data is not None:
            samples = folder / "samples"
            fetch_some(context, data, samples)
        result = folder / "result"
        result.mkdir()
        request = ConvertRequest(
            onnx=onnx, output=result, spec=spec, external_bytes=onnx_files.EXTERNAL_DATA_BYTES, samples=samples
        )
        convert = f"tasks.quantization.{CONVERTER.module}:convert"
        context.call_in_child(convert, request, dict[str, str], folder)
        check = CheckTypedRequest(
            onnx=onnx_files.find_model(result), original=onnx, spec=spec, samples=samples, most_error=MOST_HALF_ERROR
        )
        opset = context.call_in_child(
            "tasks.graphs.onnx_check:check_typed", check, int, folder, on_progress=ignore_progress
        )
        around = " ".join((CONVERTER.name, CONVERTER.describe()["version"]))
        recipe = {**typed.recipe, "around": f"fp16 by {around}", "opset": str(opset)}
        return TypedModel(onnx=context.store.put(result), precision=Precision.INT8, recipe=recipe)

    half = run_cached(context.store, "half-around", key, TypedModel, produce)
    return StageResult(
        typed.model_copy(update={"half": half.result}),
        cached=converted.cached and half.cached,
        seconds=converted.seconds + half.seconds,
    )
