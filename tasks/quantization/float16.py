"""FP16 by ONNX Runtime's converter (package onnxconverter-common): casts the whole graph but a list of operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxconverter_common import float16

from tasks.graphs.onnx_files import read_model, write_model
from tasks.quantization.interface import ConvertReply, ConvertRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> ConvertReply:
    """Serve a ConvertRequest."""
    request = ConvertRequest.model_validate(raw)
    model = float16.convert_float_to_float16(read_model(Path(request.onnx)), keep_io_types=True)
    write_model(model, request.folder, external_bytes=request.external_bytes)
    return ConvertReply(recipe={})
