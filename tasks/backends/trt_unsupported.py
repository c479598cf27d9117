"""Names every node that TensorRT does not take, with the reason, not only the first one that its parser meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from tasks.backends.trt_dialect import dialect_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.backends.trt_log import TrtLog


# What the parser says of an operation that it has no importer and finds no plugin for.
UNKNOWN_OPERATION = ("Plugin not found", "No importer registered")


@dataclass(frozen=True)
class UnsupportedNode:
    """A node of the graph, and why TensorRT does not take it."""

    name: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.op_type}): {self.reason}"


def unsupported_nodes(trt: Any, log: TrtLog, parser: Any, onnx_file: Path) -> list[UnsupportedNode]:
    """All nodes of `onnx_file` that TensorRT does not take. `parser` has just failed on it."""
    model = onnx.load(str(onnx_file), load_external_data=False)
    found = dict(_from_errors(parser, model))
    for number in sorted(_rejected(trt, log, onnx_file, len(model.graph.node)) - found.keys()):
        node = model.graph.node[number]
        reason = _reason(trt, log, _alone(model, number), onnx_file)
        if reason is not None:
            found[number] = UnsupportedNode(_name(node, number), node.op_type, reason)
    return [found[number] for number in sorted(found)]


def _from_errors(parser: Any, model: onnx.ModelProto) -> Iterator[tuple[int, UnsupportedNode]]:
    """What the parser said: TensorRT 10 and 11 check every node first, 8.6 stops at the first that is wrong."""
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        number = error.node()
        if 0 <= number < len(model.graph.node):
            node = model.graph.node[number]
            yield number, UnsupportedNode(_name(node, number), node.op_type, _one_line(error.desc()))
        else:
            yield number, UnsupportedNode("the model", "", _one_line(error.desc()))


def _rejected(trt: Any, log: TrtLog, onnx_file: Path, nodes: int) -> set[int]:
    """Numbers of the nodes that lie in no part of the graph that the parser would take."""
    network = trt.Builder(log.logger).create_network(dialect_of(trt).network_flags)
    parser = trt.OnnxParser(network, log.logger)
    content = onnx_file.read_bytes()
    if hasattr(parser, "supports_model_v2"):
        if parser.supports_model_v2(content, str(onnx_file)):
            return set()
        parts = [
            parser.get_subgraph_nodes(part)
            for part in range(parser.num_subgraphs)
            if parser.is_subgraph_supported(part)
        ]
    else:
        whole, found = parser.supports_model(content, str(onnx_file))
        if whole:
            return set()
        parts = [numbers for numbers, supported in found if supported]
    return set(range(nodes)).difference(*parts)


def _reason(trt: Any, log: TrtLog, single: onnx.ModelProto, onnx_file: Path) -> str | None:
    """What the parser says of a model of one node, whose weights lie where those of `onnx_file` do.

    None if it knows the operation: then the node was left out for what comes before it, or for shapes that it lacks
    alone.
    """
    network = trt.Builder(log.logger).create_network(dialect_of(trt).network_flags)
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse(single.SerializeToString(), str(onnx_file)) or not parser.num_errors:
        return None
    reason = _one_line(parser.get_error(0).desc())
    return reason if any(words in reason for words in UNKNOWN_OPERATION) else None


def _alone(model: onnx.ModelProto, number: int) -> onnx.ModelProto:
    node = model.graph.node[number]
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    constants = {tensor.name for tensor in weights}
    unknown = onnx.TensorProto.FLOAT

    def declared(name: str) -> onnx.ValueInfoProto:
        return known.get(name) or onnx.helper.make_tensor_value_info(name, unknown, None)

    graph = onnx.helper.make_graph(
        [node],
        "node",
        [declared(name) for name in node.input if name and name not in constants],
        [declared(name) for name in node.output if name],
        initializer=weights,
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)


def _name(node: onnx.NodeProto, number: int) -> str:
    return node.name or f"node {number}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
