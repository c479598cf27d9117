"""Names of the values in a graph: which stand for two values at once, and other names in their place."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx


def repeated_names(model: onnx.ModelProto) -> list[str]:
    """Names that stand for more than one value of the graph, those of its subgraphs included: no runtime takes it."""
    times = Counter(name for graph in graphs_in(model.graph) for name in _made_in(graph))
    return sorted(name for name, count in times.items() if count > 1)


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that are within its nodes, such as the branches of an `If`."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from graphs_in(inner)


def _made_in(graph: onnx.GraphProto) -> Iterator[str]:
    inputs = {value.name for value in graph.input}
    yield from inputs
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in inputs)
    yield from (name for node in graph.node for name in node.output if name)


def rename_values(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give values of the graph new names, also where subgraphs use them; others that have one of these make way.

    Functions have names of their own, which no value outside of them meets.
    """
    taken = {name for graph in graphs_in(model.graph) for name in _made_in(graph)} | set(names.values())
    changed = dict(names)
    for wanted in names.values():
        if wanted in taken and wanted not in names:
            number = next(count for count in range(len(taken) + 1) if f"{wanted}_inner_{count}" not in taken)
            changed[wanted] = f"{wanted}_inner_{number}"
            taken.add(changed[wanted])
    for graph in graphs_in(model.graph):
        _rename(graph, changed)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        for place, name in enumerate(node.output):
            node.output[place] = names.get(name, name)
