"""Writes a graph of opset 18 in opset 17, the newest that TensorRT 8.6 takes; onnx's own converter cannot.

What changed between the two: the axes of reductions became an input, `Split` may count its parts, `Pad` and `Resize`
may name axes, and some operators are new. Each has one function here, which gives the nodes that stand in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tasks.errors import StageError
from tasks.graphs.value_names import graphs_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

OPSET = 17
MOST_ELEMENTS = 1 << 16
REMEDY = "set export.opset: 18 or above (TensorRT 10 takes it, 8.6 does not), or rewrite that operation in the module"
# What opset 17 has no form for; other operators of opset 18 are lowered below, or are as they were.
_NEW = (
    *("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "GroupNormalization"),
    *("OptionalGetElement", "OptionalHasElement"),
)


class NotLoweredError(Exception):
    """A node has no form in opset 17; the message says why."""


@dataclass
class Values:
    """What is known of a graph's values: constants, and shapes (None for an extent that is not constant)."""

    graph: onnx.GraphProto
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    made: int = 0

    def constant(self, name: str, what: str) -> Array:
        """The constant of that name; raises NotLoweredError, saying `what` it is, where it is not one."""
        if name not in self.constants:
            raise NotLoweredError(f"its {what} are not constant")
        return self.constants[name]

    def shape(self, name: str) -> tuple[int | None, ...]:
        """The shape of a value; raises NotLoweredError where it is not known."""
        if name not in self.shapes:
            raise NotLoweredError(f"the rank of its input {name} is not known")
        return self.shapes[name]

    def add(self, array: Array, near: str) -> str:
        """Put a constant into the graph, named after a value; return its name."""
        self.made += 1
        name = f"{near}_opset17_{self.made}"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.constants[name] = array
        return name


Lowering = Callable[[onnx.NodeProto, Values], Sequence[onnx.NodeProto]]


def lower_to_17(model: onnx.ModelProto) -> None:
    """Rewrite a model of opset 18 in place; one of opset 17 stays as it is, but for nodes that were not converted.

    Raises:
        StageError: a node has no form in opset 17; it is named, with what can be done.
    """
    rewrite(model, LOWERINGS, f"has no form in opset {OPSET}", REMEDY)
    for entry in model.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            entry.version = OPSET


def rewrite(model: onnx.ModelProto, lowerings: dict[str, Lowering], failed: str, remedy: str) -> None:
    """Put what `lowerings` give by operator in the place of nodes, in the graph and its subgraphs."""
    shapes = known_shapes(model)
    outer: dict[str, Array] = {}
    for graph in graphs_in(model.graph):
        outer = {**outer, **dict(_constants(graph))}
        values = Values(graph, outer, shapes)
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            try:
                lower = lowerings.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
                nodes += [node] if lower is None else lower(node, values)
            except NotLoweredError as error:
                name = node.name or node.output[0]
                raise StageError(f"export: {node.op_type} {name!r} {failed}: {error}; {remedy}") from None
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= MOST_ELEMENTS:  # weights are of no interest
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], numpy_helper.to_array(attribute.t)
            elif attribute.name in {"value_int", "value_ints", "value_float", "value_floats"}:
                yield node.output[0], np.array(helper.get_attribute_value(attribute))


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes that the graph states, and those that onnx infers where it can."""
    found = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - beyond 2 GiB, or an operator that it does not know: what is stated must do
        inferred = model
    for graph in (*graphs_in(inferred.graph), *graphs_in(model.graph)):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                axes = value.type.tensor_type.shape.dim
                found[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
        found |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return found


def _without(node: onnx.NodeProto, *names: str) -> onnx.NodeProto:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _lower_reduction(node: onnx.NodeProto, values: Values) -> list[onnx.NodeProto]:
    """Axes go from an input to an attribute; `ReduceSum` has had the input since 13 and stays."""
    keeps_all = _attributes(node).get("noop_with_empty_axes", 0)
    axes = values.constant(node.input[1], "axes").reshape(-1).tolist() if _has_input(node, 1) else []
    if not axes and keeps_all:
        return [helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)]
    _without(node, "noop_with_empty_axes")
    del node.input[1:]
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    return [node]


def _has_input(node: onnx.NodeProto, place: int) -> bool:
    return len(node.input) > place and bool(node.input[place])


def _lower_split(node: onnx.NodeProto, values: Values) -> list[onnx.NodeProto]:
    """A count of parts becomes their sizes, of which the last may be smaller."""
    parts = _attributes(node).get("num_outputs")
    if parts is None:
        return [node]
    shape = values.shape(node.input[0])
    extent = shape[_attributes(node).get("axis", 0)]
    if extent is None:
        raise NotLoweredError("it parts an axis whose extent is not constant")
    size = -(-extent // parts)
    sizes = [min(size, extent - size * number) for number in range(parts)]
    node.input.append(values.add(np.array(sizes, np.int64), node.output[0]))
    return [_without(node, "num_outputs")]


def _lower_pad(node: onnx.NodeProto, values: Values) -> list[onnx.NodeProto]:
    """Pads of some axes become pads of all."""
    if not _has_input(node, 3):
        del node.input[3:]
        return [node]
    axes = values.constant(node.input[3], "axes").reshape(-1)
    pads = values.constant(node.input[1], "pads").reshape(2, -1)
    whole = np.zeros((2, len(values.shape(node.input[0]))), np.int64)
    whole[:, axes] = pads
    node.input[1] = values.add(whole.reshape(-1), node.output[0])
    del node.input[3:]
    return [node]


def _lower_resize(node: onnx.NodeProto, _values: Values) -> list[onnx.NodeProto]:
    attributes = _attributes(node)
    if attributes.get("antialias", 0) or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotLoweredError("antialias and aspect ratios came with opset 18")
    if "axes" in attributes:
        raise NotLoweredError("it names axes, which came with opset 18")
    return [_without(node, "antialias", "keep_aspect_ratio_policy")]


def _lower_scatter(node: onnx.NodeProto, _values: Values) -> list[onnx.NodeProto]:
    if _attributes(node).get("reduction", b"none") in {b"min", b"max"}:
        raise NotLoweredError("its reduction came with opset 18")
    return [node]


def _lower_mish(node: onnx.NodeProto, _values: Values) -> list[onnx.NodeProto]:
    (out,), (into,) = node.output, node.input
    return [
        helper.make_node("Softplus", [into], [f"{out}_soft"], name=f"{node.name}_softplus"),
        helper.make_node("Tanh", [f"{out}_soft"], [f"{out}_tanh"], name=f"{node.name}_tanh"),
        helper.make_node("Mul", [into, f"{out}_tanh"], [out], name=node.name),
    ]


def _lower_lp_pool(node: onnx.NodeProto, _values: Values) -> list[onnx.NodeProto]:
    if any(step != 1 for step in _attributes(node).get("dilations", ())) or _attributes(node).get("ceil_mode", 0):
        raise NotLoweredError("its dilations and ceil_mode came with opset 18")
    return [_without(node, "dilations", "ceil_mode")]


def _refuse_new(_node: onnx.NodeProto, _values: Values) -> list[onnx.NodeProto]:
    raise NotLoweredError("it came with opset 18")


LOWERINGS: dict[str, Lowering] = {
    **{
        f"Reduce{kind}": _lower_reduction
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    **dict.fromkeys(_NEW, _refuse_new),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _lower_scatter),
    "LpPool": _lower_lp_pool,
    "Mish": _lower_mish,
    "Pad": _lower_pad,
    "Resize": _lower_resize,
    "Split": _lower_split,
}
