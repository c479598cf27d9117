"""Before any GPU time: what TensorRT's parser of today says of a typed ONNX file, where TensorRT-RTX is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.backends import trt_rtx
from tasks.backends.trt_witness import ParseReport, ParseRequest
from tasks.graphs import onnx_files
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import TypedModel

RECIPE = 1


def ask_rtx(context: StageContext, typed: TypedModel) -> StageResult[ParseReport]:
    """Have TensorRT-RTX parse the graph that builders which take types would get.

    Raises:
        StageError: it crashed, or is not installed here.
    """
    artifact = (typed.half or typed).onnx
    key: dict[str, object] = {"recipe": RECIPE, "onnx": artifact.digest, "release": trt_rtx.release_here()}

    def produce(folder: Path) -> ParseReport:
        onnx = onnx_files.fetched_model(context.store.fetch(artifact, folder / "onnx"))
        entry = "tasks.backends.trt_witness:parse_with_rtx"
        return context.call_in_child(entry, ParseRequest(onnx=onnx), ParseReport, folder)

    return run_cached(context.store, "parse", key, ParseReport, produce)
