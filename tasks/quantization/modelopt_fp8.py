"""FP8 (E4M3) by NVIDIA ModelOpt, which places Q/DQ where TensorRT fuses them; what is not quantized becomes FP16.

ModelOpt can write FP16 around its nodes itself, but without a look at the values: an activation beyond 65504 overflows.
AutoCast looks, as it does for FP16 and around INT8. It runs the graph for that,
which ONNX Runtime's default optimisations cannot do with FP8: so it gets the same graph with INT8 for FP8, of the same
ranges, and ModelOpt's own way back is taken afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from modelopt.onnx.quantization.fp8 import int8_to_fp8
from onnx import numpy_helper

from tasks.errors import StageError
from tasks.graphs.onnx_files import QUANTIZING, renew_shapes, write_model
from tasks.quantization.autocast import cast_around
from tasks.quantization.interface import ConvertRequest
from tasks.quantization.max_ranges import quantize_by_max

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

SCALE_OF_FP8 = 448 / 127
"""By how much ModelOpt's scale for FP8 is larger than that for INT8. So a tensor's largest value stands at 36 and
not at 448, where E4M3 ends: a value up to 12 times as large as the calibration set's is not clipped."""


def convert(raw: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest; `samples` are those of the calibration set, and show AutoCast what FP16 must hold too.

    Raises:
        StageError: the graph has nothing to quantize.
    """
    request = ConvertRequest.model_validate(raw)
    model = quantize_by_max(request, "fp8", progress)
    if not any(node.op_type in QUANTIZING for node in model.graph.node):
        raise StageError("fp8: the graph has no matrix product or convolution that ModelOpt quantizes; use fp16")
    _to_int8(model)
    place = request.output.parent / "int8"
    place.mkdir()
    onnx_file = write_model(model, place, external_bytes=request.external_bytes)
    model = int8_to_fp8(cast_around(request.model_copy(update={"onnx": onnx_file}), "fp16"))
    renew_shapes(model)
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}


def _to_int8(model: onnx.ModelProto) -> None:
    """Undo ModelOpt's last step: zero points of INT8 again, and its scales."""
    nodes = [node for node in model.graph.node if node.op_type in QUANTIZING]
    scales, zeros = ({node.input[at] for node in nodes} for at in (1, 2))
    for tensor in model.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.int8), tensor.name))
        elif tensor.name in scales:
            scale = numpy_helper.to_array(tensor) / SCALE_OF_FP8
            tensor.CopyFrom(numpy_helper.from_array(scale.astype(np.float32), tensor.name))
    renew_shapes(model)
