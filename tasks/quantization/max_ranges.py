"""What INT8 and FP8 by NVIDIA ModelOpt share: Q/DQ where TensorRT fuses them, by each activation's largest value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from modelopt.onnx.quantization import quantize

from tasks.graphs.custom_ops import refuse_libraries
from tasks.graphs.onnx_files import opset_of, read_model, weight_bytes, write_model
from tasks.quantization.interface import CalibrationReader, ConvertRequest
from tasks.quantization.quantizable import find_quantizable, fold_transposed_weights, keep_float, name_nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


def quantize_by_max(
    request: ConvertRequest, mode: Literal["int8", "fp8"], progress: Callable[[int, int], None]
) -> onnx.ModelProto:
    """The request's graph with Q/DQ nodes; everything else stays in FP32, as the other methods leave it.

    Raises:
        StageError: `exclude` names what is not there or leaves nothing.
    """
    refuse_libraries(request.onnx, "Method max")
    model = read_model(request.onnx)
    fold_transposed_weights(model)
    name_nodes(model)  # as the other methods do, so that a node has one name whatever the method
    excluded = find_quantizable(model, request.exclude).excluded if request.exclude else ()
    opset, external = opset_of(model), weight_bytes(model) >= request.external_bytes
    prepared = request.output.parent / "prepared"
    prepared.mkdir()
    path = request.output.parent / "quantized.onnx"
    quantize(
        str(write_model(model, prepared, external_bytes=request.external_bytes)),
        quantize_mode=mode,
        calibration_method="max",
        calibration_data_reader=CalibrationReader(request, progress),
        calibration_eps=["cpu"],
        nodes_to_exclude=[f"{re.escape(name)}$" for name in excluded],  # it takes patterns that match from the start
        output_path=str(path),
        high_precision_dtype="fp32",
        use_external_data_format=external,
        opset=opset,  # it raises anything below 19 to 19
        log_level="WARNING",
    )
    quantized = read_model(path)
    keep_float(quantized, excluded)
    return quantized
