"""INT8 by NVIDIA ModelOpt's post-training quantization, which places Q/DQ where TensorRT fuses them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelopt.onnx.quantization import quantize

from tasks.converters.interface import CalibrationReader, ConvertReply, ConvertRequest
from tasks.onnx_files import opset_of, read_model, weight_bytes, write_model

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], progress: Callable[[int, int], None]) -> ConvertReply:
    """Serve a ConvertRequest with method `max`: the largest absolute value of each activation."""
    request = ConvertRequest.model_validate(raw)
    source = Path(request.onnx)
    model = read_model(source)
    quantized = request.folder.parent / "quantized.onnx"
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_method="max",
        calibration_data_reader=CalibrationReader(request, progress),
        calibration_eps=["cpu"],
        output_path=str(quantized),
        # Everything that is not quantized stays in FP32, as the other methods leave it.
        high_precision_dtype="fp32",
        use_external_data_format=weight_bytes(model) >= request.external_bytes,
        opset=opset_of(model),  # it raises anything below 19 to 19
        log_level="WARNING",
    )
    write_model(read_model(quantized), request.folder, external_bytes=request.external_bytes)
    return ConvertReply(recipe={})
