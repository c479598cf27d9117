"""What ONNX Runtime's CPU can run of the types that it lacks: the same graph in FP32 with casts that round.

It has no kernels for BF16 but casts, few for FP16 (`graphs.half_rounding`), and of FP8 only QuantizeLinear,
DequantizeLinear and Cast. Its optimiser takes Q/DQ nodes of FP8 for those of INT8, moves them, and then refuses its own
graph (1.31, at the level `extended`, and whenever it loads a graph): so they are written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.graphs.half_rounding import keep_half_rounding
from tasks.graphs.onnx_files import renew_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

E4M3 = TensorProto.FLOAT8E4M3FN


def as_cpu_runs(model: onnx.ModelProto) -> bool:
    """Write out FP8, then round FP16 and BF16 after every operation; return whether there was anything to change.

    `model` is changed; its weights may lie in a file of their own, which is not read.
    """
    written = _write_out_float8(model)
    return keep_half_rounding(model) or written


def _write_out_float8(model: onnx.ModelProto) -> bool:
    graph = model.graph
    eights = {tensor.name for tensor in graph.initializer if tensor.data_type == E4M3}
    eights |= {output for node in graph.node if node.op_type == "QuantizeLinear" for output in _in_eight(node, eights)}
    if not eights:
        return False
    typed = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type for value in (*typed.value_info, *typed.input, *typed.output)}
    types = {name: kind.elem_type for name, kind in kinds.items()}
    ranks = {name: len(kind.shape.dim) for name, kind in kinds.items()}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in eights:
            nodes += _written(node, graph, ranks, ("Div", E4M3))
        elif node.op_type == "DequantizeLinear" and node.input[0] in eights:
            nodes += _written(node, graph, ranks, ("Mul", types[node.input[1]]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    renew_shapes(model)
    return True


def _in_eight(node: onnx.NodeProto, eights: set[str]) -> list[str]:
    wanted = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    zero = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - the zero point is the third
    return list(node.output) if zero in eights or wanted == E4M3 else []


def _written(
    node: onnx.NodeProto, graph: onnx.GraphProto, ranks: dict[str, int], how: tuple[str, int]
) -> Iterator[onnx.NodeProto]:
    """In FP32: the input times or by the scale, along the node's axis where it has one, then a cast that saturates."""
    (operator, result), name = how, node.output[0]
    yield helper.make_node("Cast", [node.input[0]], [f"{name}.of"], name=f"{name}.of", to=TensorProto.FLOAT)
    yield helper.make_node("Cast", [node.input[1]], [f"{name}.scale"], name=f"{name}.scale", to=TensorProto.FLOAT)
    scale, rank = f"{name}.scale", ranks.get(node.input[0], 0)
    if ranks.get(node.input[1], 0) == 1 and rank > 1:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % rank
        shape = [-1 if at == axis else 1 for at in range(rank)]
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}.along"))
        yield helper.make_node("Reshape", [scale, f"{name}.along"], [f"{name}.scales"], name=f"{name}.scales")
        scale = f"{name}.scales"
    yield helper.make_node(operator, [f"{name}.of", scale], [f"{name}.exact"], name=f"{name}.exact")
    yield helper.make_node("Cast", [f"{name}.exact"], [name], name=f"{name}.cast", to=result)
