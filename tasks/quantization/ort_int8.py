"""INT8 by ONNX Runtime's static quantizer, set up for what TensorRT takes.

Q/DQ pairs stand before matrix products and convolutions with constant weights, on the activation (per tensor,
symmetric) and on the float weight itself (per output channel): without the pair on the weight TensorRT 8.6 dies.
Biases stay float, and outputs are not quantized, so that TensorRT can fuse the bias. Nodes that are left out read float
activations, even where another node reads the same activation quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import shape_inference
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from tasks.errors import StageError
from tasks.graphs.custom_ops import copy_libraries
from tasks.graphs.onnx_files import read_model, weight_bytes, write_model
from tasks.quantization.interface import CalibrationReader, ConvertRequest
from tasks.quantization.ort_calibration import find_ranges
from tasks.quantization.quantizable import (
    Plan,
    declare_types,
    find_quantizable,
    fold_transposed_weights,
    keep_float,
    name_nodes,
    unquantize_fused,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx


def convert(raw: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest with method `minmax`, `entropy` or `percentile`.

    Raises:
        StageError: the graph has nothing to quantize, or `exclude` names what is not there or leaves nothing.
    """
    request = ConvertRequest.model_validate(raw)
    assert request.method is not None  # noqa: S101 - convert sends it for INT8
    path = prepare(request)
    model = read_model(path)
    plan = find_quantizable(model, request.exclude)
    ranges = find_ranges(path, plan.activations, request.method, CalibrationReader(request, progress))
    quantized = quantize(model, plan, ranges)
    write_model(quantized, request.output, external_bytes=request.external_bytes)
    return {"quantized_nodes": str(len(plan.nodes))}


def prepare(request: ConvertRequest) -> Path:
    """Write the graph as `quantize` and the calibrators want it, into `prepared` beside the result; return its path.

    Raises:
        StageError: the graph has nothing to quantize.
    """
    model = read_model(request.onnx)
    fold_transposed_weights(model)
    name_nodes(model)
    plan = find_quantizable(model)
    if not plan.nodes:
        raise StageError(
            "int8: the graph has no matrix product or convolution with constant weights of 16 channels or more,"
            " so there is nothing to quantize; drop int8 from precisions"
        )
    if weight_bytes(model) < request.external_bytes:  # above it, inference would need the model twice on disk
        model = shape_inference.infer_shapes(model)
    declare_types(model, plan.activations)
    prepared = request.output.parent / "prepared"
    prepared.mkdir()
    copy_libraries(request.onnx, prepared)
    return write_model(model, prepared, external_bytes=request.external_bytes)


def quantize(model: onnx.ModelProto, plan: Plan, ranges: Any) -> onnx.ModelProto:
    """Return a prepared graph with Q/DQ pairs for the nodes of `plan`; `model` may be changed.

    `ranges` are those of its activations and may hold more; see `find_ranges`.
    """
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(plan.nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(plan.op_types),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(plan.op_types),
            "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1, "MatMul": 1},
        },
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    unquantize_fused(quantized, plan)
    keep_float(quantized, plan.excluded)
    quantizer.model.topological_sort()  # it appends nodes to the end, wherever they belong
    return quantized
