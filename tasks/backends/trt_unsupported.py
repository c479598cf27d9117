"""Names every node that TensorRT does not take, with the reason, not only the first one that its parser meets.

A parser tells of every operator that it does not have at once, if it is one of TensorRT 10 or 11, and stops at the
first node that it has and cannot place: one of a wrong type, say. 8.6 stops at the first of either. So what it refused
is cut out, what the cut nodes gave becomes an input, and the rest is parsed again, until the parser takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_rtx import UNKNOWN_OPERATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.backends.trt_log import TrtLog


UNSUPPORTED = "UNSUPPORTED_NODE"
MOST_ROUNDS = 50
# The whole text of an assertion that says no more: the importer of an operator that there is none for.
NO_REASON = ("", "false")
OF_THE_HOST = "Cuda Runtime"  # a builder without a driver adds this to whatever went wrong


@dataclass(frozen=True)
class UnsupportedNode:
    """A node of the graph, and why TensorRT does not take it.

    `operator` is what it stumbled over: an operator inside the node, where `inside` says the way there.
    """

    name: str
    op_type: str
    reason: str
    operator: str = ""
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        inner = f"{self.operator} in {' > '.join(self.inside)}: " if self.inside else ""
        return f"{self.name} ({self.op_type}): {inner}{self.reason}"


def unsupported_nodes(trt: Any, log: TrtLog, onnx_file: Path) -> list[UnsupportedNode]:
    """All nodes of `onnx_file`, which the parser has refused, that it does not take; empty where it names none."""
    model = onnx.load(str(onnx_file), load_external_data=False)
    found: dict[int, UnsupportedNode] = {}
    cut: set[int] = set()
    rest = _Rest(model)
    for _ in range(MOST_ROUNDS):
        kept = [number for number in range(len(model.graph.node)) if number not in cut]
        refusals = list(_refusals(trt, log, rest.without(cut), onnx_file, kept))
        for refusal in refusals:
            # Behind a node that was cut, one may be refused for what it lacks here alone.
            if not cut or refusal.is_of_the_operator or rest.is_sure_of(refusal.number):
                found[-1 if refusal.number is None else refusal.number] = refusal.of(model)
        named = {refusal.number: refusal for refusal in refusals if refusal.number is not None}
        rest.doubt({number for number, refusal in named.items() if not refusal.is_of_the_operator})
        if not named or len(named) == len(kept):
            break
        cut |= named.keys()
    return [found[number] for number in sorted(found)]


class _Rest:
    """A model, and what is left of it without some nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        typed = onnx.shape_inference.infer_shapes(model).graph
        self._types = {value.name: value for value in (*typed.value_info, *typed.input, *typed.output)}
        self._given = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.input}
        self._doubtful: set[str] = set()

    def doubt(self, numbers: set[int]) -> None:
        """Take the types of what these nodes give, and all that comes of it, for guesses."""
        for number, node in enumerate(self._model.graph.node):
            if number in numbers or not self._doubtful.isdisjoint(node.input):
                self._doubtful.update(node.output)

    def is_sure_of(self, number: int | None) -> bool:
        """Whether the types of all that a node reads are known."""
        if number is None:
            return False
        read = set(self._model.graph.node[number].input) - {""}
        return read.isdisjoint(self._doubtful) and read <= self._types.keys() | self._given

    def without(self, cut: set[int]) -> onnx.ModelProto:
        """The model without the nodes `cut`; the weights stay where they are."""
        if not cut:
            return self._model
        graph = self._model.graph
        nodes = [node for number, node in enumerate(graph.node) if number not in cut]
        made = {name for node in nodes for name in node.output}
        lost = {name for number in cut for name in graph.node[number].output if name}
        read = {name for node in nodes for name in _read_by(node)}
        inputs = [*graph.input, *(self._declared(name) for name in sorted(lost & read))]
        outputs = [value for value in graph.output if value.name in made]
        if not outputs:
            outputs = [self._declared(name) for name in nodes[-1].output if name]
        rest = helper.make_graph(nodes, graph.name, inputs, outputs, initializer=list(graph.initializer))
        return helper.make_model(
            rest,
            opset_imports=self._model.opset_import,
            functions=self._model.functions,
            ir_version=self._model.ir_version,
        )

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        return self._types.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read_by(inner)
            yield from (value.name for value in graph.output)


@dataclass(frozen=True)
class _Refusal:
    """An error of the parser, which dies with it. `number` is that of the node, None where none is named."""

    number: int | None
    code: str
    text: str
    operator: str
    inside: tuple[str, ...]

    @property
    def is_of_the_operator(self) -> bool:
        """Whether it says that there is no such operator, whatever the node reads."""
        without_importer = self.code == UNSUPPORTED and self.text.strip() in NO_REASON
        return without_importer or any(words in self.text for words in UNKNOWN_OPERATION)

    @property
    def reason(self) -> str:
        """One line."""
        lines = [line for line in self.text.splitlines() if OF_THE_HOST not in line]
        text = " ".join(" ".join(lines).split())
        if text not in NO_REASON:
            return text
        if self.code == UNSUPPORTED:
            return "its parser has no importer for this operator"
        return f"its parser gives no reason but the code {self.code}"

    def of(self, model: onnx.ModelProto) -> UnsupportedNode:
        """For people."""
        if self.number is None:
            return UnsupportedNode("the model", "", self.reason)
        node = model.graph.node[self.number]
        return UnsupportedNode(
            node.name or f"node {self.number}", node.op_type, self.reason, self.operator, self.inside
        )


def _refusals(trt: Any, log: TrtLog, model: onnx.ModelProto, onnx_file: Path, numbers: list[int]) -> Iterator[_Refusal]:
    """What the parser refuses of a model whose nodes have these numbers in the whole one."""
    builder = trt.Builder(log.logger)  # it has to outlive the network, and the parser its errors
    network = builder.create_network(dialect_of(trt).network_flags)
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse(model.SerializeToString(), str(onnx_file)):
        return
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        number = error.node()
        yield _Refusal(
            number=numbers[number] if 0 <= number < len(numbers) else None,
            code=str(error.code().name),
            text=str(error.desc()),
            # TensorRT 8.6 tells of no operator inside a node.
            operator=str(error.node_operator()) if hasattr(error, "node_operator") else "",
            inside=tuple(error.local_function_stack()) if hasattr(error, "local_function_stack") else (),
        )
