"""Attention over more positions than TensorRT 8.6 has fused kernels for, as one node that a plugin of ours computes.

Up to 512 positions TensorRT 8.6 fuses attention by itself. Beyond, it writes all scores to memory, and reads them for
the softmax and again for the product. `cuda/attention.cu` does all of it in one kernel; here its nodes are found and
replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import helper, numpy_helper

from tasks.graphs.onnx_files import inner_graphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.declared import Dim, InputSpec

OPERATOR = "EnginegateAttention"
"""The plugin's name, and that of its node: TensorRT's parser looks for a plugin of the name of an unknown operator."""
HEAD = 64
"""Numbers of a head, for which the kernel is written."""
FUSED_POSITIONS = 512
"""Positions up to which TensorRT 8.6 has fused kernels."""
HEADS_SECOND, KEYS_LAST = [0, 2, 1, 3], [0, 2, 3, 1]


def fuse_attention(model: onnx.ModelProto, inputs: Mapping[str, InputSpec], dims: Mapping[str, Dim]) -> int:
    """Replace each attention that TensorRT 8.6 does not fuse and the plugin computes; return how many.

    Replaced is softmax(scale * Q K^T) V without a mask, of heads of 64 numbers and more than 512 keys. The graph has
    its tensors as [batch, heads, positions, 64]; the node takes and gives [batch, positions, heads, 64], as linear
    layers do, so that the transposes around it go. Weights need not be loaded.

    Args:
        model: the graph, which is changed.
        inputs: what the model takes.
        dims: what its dims may be; extents are looked at where all are largest.
    """
    graph = _Graph(model, _extents(model, inputs, dims))
    found = [attention for node in model.graph.node if (attention := graph.attention(node)) is not None]
    for number, attention in enumerate(found):
        graph.replace(attention, f"enginegate_attention_{number}")
    if found:
        graph.drop_unused()
        model.opset_import.append(helper.make_opsetid("enginegate", 1))
    return len(found)


def _extents(
    model: onnx.ModelProto, inputs: Mapping[str, InputSpec], dims: Mapping[str, Dim]
) -> dict[str, tuple[int, ...]]:
    """The shape of each inner tensor where all dims are largest; those that cannot be inferred are not in it."""
    largest = onnx.ModelProto()
    largest.CopyFrom(model)
    for value in largest.graph.input:
        shape = [dims[axis].max if isinstance(axis, str) else axis for axis in inputs[value.name].shape]
        for axis, extent in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            axis.dim_value = extent
    del largest.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(largest, data_prop=True)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred.graph.value_info}
    return {
        name: tuple(axis.dim_value for axis in shape)
        for name, shape in shapes.items()
        if all(axis.HasField("dim_value") for axis in shape)
    }


@dataclass(frozen=True)
class _Attention:
    """Q and V as [batch, heads, positions, 64], K as [batch, heads, 64, positions]; `product` gives the result."""

    query: str
    key: str
    value: str
    scale: float
    product: onnx.NodeProto


class _Graph:
    """A graph, with who makes and who reads each tensor."""

    def __init__(self, model: onnx.ModelProto, extents: Mapping[str, tuple[int, ...]]) -> None:
        self._graph, self._extents = model.graph, extents
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {output.name for output in model.graph.output}

    def attention(self, softmax: onnx.NodeProto) -> _Attention | None:
        """The attention that `softmax` is part of, if the plugin computes it and TensorRT does not fuse it."""
        if softmax.op_type != "Softmax" or _attribute(softmax, "axis", -1) not in {-1, 3}:
            return None
        product = self._reader_past_casts(softmax.output[0])
        scores, scale = self._unscaled(softmax.input[0])
        asking = self._makers.get(scores)
        if product is None or asking is None or (asking.op_type, product.op_type) != ("MatMul", "MatMul"):
            return None
        shares, value = product.input
        if self._before_casts(shares) != softmax.output[0]:
            return None
        (query, by_query), (key, by_key) = (self._unscaled(name) for name in asking.input)
        scale *= by_query * by_key
        return _Attention(query, key, value, scale, product) if scale > 0 and self._fits(query, key, value) else None

    def _fits(self, query: str, key: str, value: str) -> bool:
        extents = [self._extents.get(name, ()) for name in (query, key, value)]
        if any(len(extent) != len(HEADS_SECOND) for extent in extents):
            return False
        (batch, heads, _, width), transposed, (*_, keys, _) = extents
        are_of_one_form = [(batch, heads, HEAD, keys), (batch, heads, keys, HEAD)] == [transposed, extents[2]]
        return are_of_one_form and width == HEAD and keys > FUSED_POSITIONS

    def replace(self, found: _Attention, name: str) -> None:
        """Put the plugin's node where the result was computed."""
        added: list[onnx.NodeProto] = []
        inputs = (
            self._positions_second(found.query, HEADS_SECOND, f"{name}_query", added),
            self._positions_second(found.key, KEYS_LAST, f"{name}_key", added),
            self._positions_second(found.value, HEADS_SECOND, f"{name}_value", added),
        )
        made, result = f"{name}_result", found.product.output[0]
        added.append(helper.make_node(OPERATOR, inputs, [made], name, domain="enginegate", scale=found.scale))
        readers = self._readers.get(result, [])
        if result not in self._outputs and len(readers) == 1 and _permutation(readers[0]) == HEADS_SECOND:
            (after,) = readers
            added[-1].output[0] = after.output[0]
            self._graph.node.remove(after)
        else:
            added.append(helper.make_node("Transpose", [made], [result], f"{name}_transpose", perm=HEADS_SECOND))
        place = list(self._graph.node).index(found.product)
        self._graph.node.remove(found.product)
        for offset, node in enumerate(added):
            self._graph.node.insert(place + offset, node)

    def _positions_second(self, name: str, order: list[int], to: str, added: list[onnx.NodeProto]) -> str:
        """A tensor [batch, positions, heads, 64] that a transpose by `order` makes `name` of; `added` may get one."""
        maker = self._makers.get(name)
        if maker is not None and _permutation(maker) == order:
            return str(maker.input[0])
        back = sorted(range(len(order)), key=order.__getitem__)
        added.append(helper.make_node("Transpose", [name], [to], f"{to}_transpose", perm=back))
        return to

    def _reader_past_casts(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, past casts; None where there are more, or it is an output."""
        while name not in self._outputs and len(readers := self._readers.get(name, [])) == 1:
            if readers[0].op_type != "Cast":
                return readers[0]
            name = readers[0].output[0]
        return None

    def _before_casts(self, name: str) -> str:
        while (maker := self._makers.get(name)) is not None and maker.op_type == "Cast":
            name = maker.input[0]
        return name

    def _unscaled(self, name: str) -> tuple[str, float]:
        """A tensor before casts and products with constant numbers, and those numbers' product."""
        scale = 1.0
        while (maker := self._makers.get(name)) is not None:
            if maker.op_type == "Cast":
                name = maker.input[0]
                continue
            factor = self._factor(maker)
            if factor is None:
                break
            name, scale = factor[0], scale * factor[1]
        return name, scale

    def _factor(self, node: onnx.NodeProto) -> tuple[str, float] | None:
        if node.op_type not in {"Mul", "Div"}:
            return None
        numbers = [self._number(name) for name in node.input]
        if numbers[1] is not None:
            return node.input[0], numbers[1] if node.op_type == "Mul" else 1 / numbers[1]
        if numbers[0] is not None and node.op_type == "Mul":
            return node.input[1], numbers[0]
        return None

    def _number(self, name: str) -> float | None:
        """The value of a constant of one number, cast or not; not 0, by which nothing can be divided."""
        name = self._before_casts(name)
        tensor, maker = self._constants.get(name), self._makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            (constant,) = maker.attribute
            if constant.name == "value_float":
                return float(constant.f) or None
            tensor = constant.t if constant.name == "value" else None
        if tensor is None or any(extent != 1 for extent in tensor.dims):
            return None
        return float(numpy_helper.to_array(tensor).reshape(-1)[0]) or None

    def drop_unused(self) -> None:
        """Remove the nodes and constants that nothing reads any more."""
        used = set(self._outputs)
        kept = []
        for node in reversed(self._graph.node):
            if used.intersection(node.output):
                kept.append(node)
                used.update(_read_by(node))
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in used]:
            self._graph.initializer.remove(tensor)


def _read_by(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, in its inner graphs too."""
    yield from node.input
    for graph in inner_graphs(node):
        for inner in graph.node:
            yield from _read_by(inner)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _permutation(node: onnx.NodeProto) -> list[int] | None:
    if node.op_type != "Transpose":
        return None
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
