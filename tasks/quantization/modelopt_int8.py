"""INT8 by NVIDIA ModelOpt's post-training quantization, which places Q/DQ where TensorRT fuses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.graphs.onnx_files import write_model
from tasks.quantization.interface import ConvertRequest
from tasks.quantization.max_ranges import quantize_by_max

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest with method `max`: the largest absolute value of each activation.

    Raises:
        StageError: `exclude` names what is not there or leaves nothing.
    """
    request = ConvertRequest.model_validate(raw)
    write_model(quantize_by_max(request, "int8", progress), request.output, external_bytes=request.external_bytes)
    return {}
