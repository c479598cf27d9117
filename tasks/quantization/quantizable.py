"""Chooses what ONNX Runtime's quantizer shall quantize, and mends what it cannot be told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import onnx

# Below 16 channels an INT8 tensor core has nothing to gain: the limit that ModelOpt uses
# (modelopt.onnx.quantization.graph_utils._MIN_MATMUL_DIM). A score's head is kept exact by it.
SMALLEST_MATRIX = 16
MATRIX = {"MatMul", "Gemm"}
CONVOLUTION = {"Conv", "ConvTranspose"}


@dataclass(frozen=True)
class Plan:
    """Nodes to quantize by name, their operator types, and the activations to find ranges for.

    `fused` holds (node, input's index) of residual additions: TensorRT fuses the addition into the convolution that
    computes this input, so it gets no Q/DQ pair; the other input gets one. `excluded` are the nodes that would be
    quantized too, were they or the convolution that they are fused into not left out.
    """

    nodes: tuple[str, ...]
    op_types: tuple[str, ...]
    activations: tuple[str, ...]
    fused: tuple[tuple[str, int], ...]
    excluded: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The nodes that have weights: a residual addition is quantized or left out with its convolution."""
        additions = {name for name, _ in self.fused}
        return tuple(name for name in self.nodes if name not in additions)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, since the quantizer chooses by name."""
    seen: Counter[str] = Counter()
    for number, node in enumerate(model.graph.node):
        if not node.name or seen[node.name]:
            node.name = f"{node.op_type}_{number}"
        seen[node.name] += 1


def fold_transposed_weights(model: onnx.ModelProto) -> None:
    """Transpose constant weights now. Exporters leave large ones to a node, behind which no quantizer looks."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        array = np.transpose(numpy_helper.to_array(weights[node.input[0]]), order)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for name, tensor in weights.items():
        if name not in used:
            graph.initializer.remove(tensor)


def find_quantizable(model: onnx.ModelProto, exclude: Collection[str] = ()) -> Plan:
    """Matrix products and convolutions with constant float weights, and the residual additions after convolutions.

    Nodes named in `exclude` are left out, and so is an addition that no quantized convolution is left for.

    Raises:
        StageError: `exclude` names a node that would not be quantized anyway, or leaves nothing to quantize.
    """
    plan = _plan(model.graph, ())
    if not exclude:
        return plan
    unknown = sorted(set(exclude).difference(plan.nodes))
    if unknown:
        raise StageError(
            f"int8: {len(unknown)} of the {len(exclude)} nodes to leave out ({', '.join(unknown)}) are none of the"
            f" {len(plan.nodes)} that would be quantized; take names from the ranking of layers of this very graph"
        )
    kept = _plan(model.graph, exclude)
    if not kept.layers:
        raise StageError(
            f"int8: all {len(plan.layers)} layers are left out, so nothing is left to quantize; exclude fewer of them,"
            " or use fp16"
        )
    return replace(kept, excluded=tuple(name for name in plan.nodes if name not in kept.nodes))


def _plan(graph: onnx.GraphProto, exclude: Collection[str]) -> Plan:
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    nodes = [node for node in graph.node if node.name not in exclude and _has_quantizable_weight(node, weights)]
    convolved = {node.output[0] for node in nodes if node.op_type in CONVOLUTION}
    residual = {name: fused for name, fused in _residual_additions(graph, convolved) if name not in exclude}
    additions = [node for node in graph.node if node.name in residual]
    activations = [node.input[0] for node in nodes] + [name for node in additions for name in node.input]
    return Plan(
        nodes=tuple(node.name for node in nodes + additions),
        op_types=tuple(sorted({node.op_type for node in nodes + additions})),
        activations=tuple(sorted(set(activations))),
        fused=tuple(residual.items()),
    )


def _has_quantizable_weight(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in MATRIX | CONVOLUTION or node.input[1] not in weights or node.input[0] in weights:
        return False
    extents = weights[node.input[1]].dims
    # The quantizer scales a weight per column; a stack of matrices has no such axis.
    return node.op_type in CONVOLUTION or (len(extents) == 2 and min(extents) >= SMALLEST_MATRIX)  # noqa: PLR2004


def _residual_additions(graph: onnx.GraphProto, convolved: set[str]) -> Iterator[tuple[str, int]]:
    weights = {tensor.name for tensor in graph.initializer}
    consumers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type != "Add" or weights.intersection(node.input):
            continue
        fused = [number for number, name in enumerate(node.input) if name in convolved and consumers[name] == 1]
        if fused:
            yield node.name, fused[0]


def declare_types(model: onnx.ModelProto, activations: tuple[str, ...]) -> None:
    """Declare as float what shape inference could not tell: the quantizer passes over tensors of unknown type."""
    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    for name in activations:
        if name not in known:
            graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def unquantize_fused(model: onnx.ModelProto, plan: Plan) -> None:
    """Remove the Q/DQ pairs that the quantizer put before the fused inputs of residual additions."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}
    for name, number in plan.fused:
        dequantize = producers[nodes[name].input[number]]
        if dequantize.op_type != "DequantizeLinear":
            continue
        quantize = producers[dequantize.input[0]]
        nodes[name].input[number] = quantize.input[0]
        graph.node.remove(dequantize)
        graph.node.remove(quantize)


def keep_float(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Have these nodes read what lies before the Q/DQ pairs: a quantizer gives a pair to all that read its tensor."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in names:
            for number, name in enumerate(node.input):
                node.input[number] = _before_pair(name, producers)
    _remove_unread_pairs(graph)


def _before_pair(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return name
    quantize = producers.get(dequantize.input[0])
    return quantize.input[0] if quantize is not None and quantize.op_type == "QuantizeLinear" else name


def _remove_unread_pairs(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = outputs.union(*(node.input for node in graph.node))
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in read]:
            graph.node.remove(node)
