"""FP16 by ONNX Runtime's converter (package onnxconverter-common): casts the whole graph but a list of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import TensorProto, helper
from onnxconverter_common import float16

from tasks.graphs.custom_ops import custom_operations
from tasks.graphs.onnx_files import read_model, renew_shapes, write_model
from tasks.quantization.interface import ConvertRequest
from tasks.quantization.quantizable import name_nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest."""
    request = ConvertRequest.model_validate(raw)
    model = read_model(request.onnx)
    name_nodes(model)  # it names its casts after them
    _separate_outputs(model.graph)
    to_single = _casts_to_single(model.graph)
    # A library computes in the types that it was written for, and these are most often FP32 alone.
    single = [*float16.DEFAULT_OP_BLOCK_LIST, *custom_operations(model)]
    model = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=single)
    for node in model.graph.node:
        if node.op_type == "Cast" and to_single.intersection(node.output):
            _target(node).i = TensorProto.FLOAT16
    renew_shapes(model)
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}


def _separate_outputs(graph: onnx.GraphProto) -> None:
    """Let no node read an output of the graph: the converter gives such a node FP32 beside FP16."""
    read = {name for node in graph.node for name in node.input}
    for value in graph.output:
        if value.name in read:
            inner = f"{value.name}.inner"
            for node in graph.node:
                for names in (node.input, node.output):
                    renamed = [inner if name == value.name else name for name in names]
                    del names[:]
                    names.extend(renamed)
            graph.node.append(helper.make_node("Identity", [inner], [value.name], name=f"{value.name}.outer"))


def _casts_to_single(graph: onnx.GraphProto) -> set[str]:
    """What the model itself casts to FP32: the converter takes these for FP16, and leaves the casts as they are."""
    outer = {value.name for value in graph.output}
    return {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and _target(node).i == TensorProto.FLOAT and node.output[0] not in outer
    }


def _target(node: onnx.NodeProto) -> onnx.AttributeProto:
    found: onnx.AttributeProto = next(attribute for attribute in node.attribute if attribute.name == "to")
    return found
