"""FP16 by ONNX Runtime's converter (package onnxconverter-common): casts the whole graph but a list of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxconverter_common import float16

from tasks.graphs.onnx_files import read_model, write_model
from tasks.quantization.interface import ConvertRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest."""
    request = ConvertRequest.model_validate(raw)
    model = float16.convert_float_to_float16(read_model(request.onnx), keep_io_types=True)
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}
