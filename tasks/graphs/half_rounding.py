"""Half precision on a processor that computes in FP32: each operation's result is rounded to FP16 or BF16.

ONNX Runtime's CPU has FP16 kernels for few operators. It casts to FP32 and back around the others, and then takes out
the casts between two of them, since it holds casts of its own for free of loss: activations keep FP32's range, and an
RMSNorm that is infinite in half precision passes. That is no optimiser that `disabled_optimizers` could name (measured
on 1.31, at every level). Casts that stand in the graph it keeps, when an engine is built and when it is loaded. So they
are written out here, and the engine gives the same wherever it is loaded.

An operation is computed in FP32 and rounded once, as GPUs do whose matrix products add up in FP32; a product and the
bias added to it count as one. Of BF16 it has casts alone, so that what only moves values is
done in FP32 as well, exactly.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from tasks.graphs.onnx_files import inner_graphs, renew_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HALF, BRAIN, SINGLE = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT

# They move values or make constants, so that nothing is left to round; or their attributes say the type.
EXACT = frozenset(
    {
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "Identity", "Shape", "Size", "IsInf", "IsNaN"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Pad", "DepthToSpace"),
        *("SpaceToDepth", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "Compress", "Where"),
        *("ReverseSequence", "If", "Loop", "Scan", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
        *("SequenceMap", "SplitToSequence", "ConcatFromSequence"),
    }
)
# What is left as it is although it touches BF16: casts, constants, and what holds graphs of its own.
EXACT_IN_BRAIN = frozenset({"Cast", "Constant", "Identity", "If", "Loop", "Scan"})


def keep_half_rounding(model: onnx.ModelProto) -> bool:
    """Make every operation on FP16 or BF16 one on FP32 whose results are cast back; return whether there was any.

    `model` is changed; its weights may lie in a file of their own, which is not read. An operator of another domain
    than ONNX's own, or whose types cannot be inferred, stays as it is.
    """
    typed = onnx.shape_inference.infer_shapes(model).graph
    found = _Rounding(model.graph, typed, {}).apply()
    if found:
        renew_shapes(model)
    return found


class _Rounding:
    """A graph, and the types of what is FP16 or BF16 in it and around it. `typed` is the same graph with its types."""

    def __init__(self, graph: onnx.GraphProto, typed: onnx.GraphProto, around: Mapping[str, int]) -> None:
        self._graph, self._typed = graph, typed
        self._half = {**around, **dict(_half_types(typed))}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        products = _products_with_bias(graph) & self._half.keys()
        self._single = {name: self._new_name(f"{name}.exact") for name in sorted(products)}
        self._changed = False

    def apply(self) -> bool:
        """Rewrite the graph and those inside it; return whether anything was."""
        nodes: list[onnx.NodeProto] = []
        for node, typed in zip(self._graph.node, self._typed.node, strict=True):
            for own, other in zip(inner_graphs(node), inner_graphs(typed), strict=True):
                self._changed |= _Rounding(own, other, self._half).apply()
            nodes += self._rewritten(node)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return self._changed

    def _rewritten(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        kinds = {self._half[name] for name in (*node.input, *node.output) if name in self._half}
        exact = EXACT_IN_BRAIN if BRAIN in kinds else EXACT
        if node.op_type in exact or node.domain not in {"", "ai.onnx"} or not kinds:
            yield node
            return
        self._changed = True
        for name in node.input:
            if name in self._half and name not in self._single:
                self._single[name] = self._new_name(f"{name}.single")
                yield _cast(name, self._single[name], SINGLE)
        inputs = [self._single.get(name, name) for name in node.input]
        writes = [name for name in node.output if name in self._half and name not in self._single]
        rounded = {name: self._new_name(f"{name}.exact") for name in writes}
        outputs = [rounded.get(name, self._single.get(name, name)) for name in node.output]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        yield node
        yield from (_cast(result, name, self._half[name]) for name, result in rounded.items())

    def _new_name(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=to)


def _half_types(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    yield from ((tensor.name, tensor.data_type) for tensor in graph.initializer if tensor.data_type in {HALF, BRAIN})
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type in {HALF, BRAIN}:
            yield value.name, value.type.tensor_type.elem_type


def _products_with_bias(graph: onnx.GraphProto) -> frozenset[str]:
    """Results of matrix products that nothing reads but the addition of a weight."""
    read = Counter(name for node in graph.node for name in node.input)
    read.update(value.name for value in graph.output)
    if any(inner_graphs(node) for node in graph.node):  # which may read it too
        return frozenset()
    weights = {tensor.name for tensor in graph.initializer}
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul" and read[node.output[0]] == 1}
    return frozenset(
        name
        for node in graph.node
        if node.op_type == "Add" and not weights.isdisjoint(node.input)
        for name in node.input
        if name in products
    )
