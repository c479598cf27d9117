"""Asks TensorRT-RTX, in a child process, what TensorRT takes of a converted model. A parse takes a tenth of a second.

It is a second witness and no judge: what it lacks of its own is left out of its answer (`trt_rtx`), and its refusal
stops nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.backends import trt_rtx
from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_log import TrtLog
from tasks.backends.trt_unsupported import unsupported_nodes
from tasks.declared import Frozen
from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

REMEDY = "rewrite what they come from in the module, or name a plugin library that holds them under build.plugins"


class ParseRequest(Frozen):
    """A typed ONNX file, with its weights where it says."""

    onnx: Path


class ParseReport(Frozen):
    """What TensorRT-RTX of `release` refuses of a graph: `nodes` by name, operator and reason.

    `unasked` are those that it lacks and TensorRT has; `said` is its error where it names no node.
    """

    release: str
    nodes: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    said: str = ""

    @property
    def takes_it(self) -> bool:
        """Whether it refuses nothing that it could be asked about."""
        return not self.nodes and not self.said

    @property
    def headline(self) -> str:
        """For people; it is followed by a line for each of `nodes`."""
        left_out = f"; it cannot say of {', '.join(self.unasked)}" if self.unasked else ""
        if self.takes_it:
            return f"TensorRT-RTX {self.release} takes the graph{left_out}"
        if not self.nodes:
            return f"TensorRT-RTX {self.release} does not take the graph: {self.said}{left_out}"
        return f"TensorRT-RTX {self.release} does not take {len(self.nodes)} nodes; {REMEDY}{left_out}"


def parse_with_rtx(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> ParseReport:
    """Child entry: serve a ParseRequest.

    Raises:
        StageError: TensorRT-RTX is not here.
    """
    request, trt = ParseRequest.model_validate(raw), trt_rtx.import_rtx()
    if trt is None:
        raise StageError("TensorRT-RTX is not installed here; pip install '.[rtx]'")
    log = TrtLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(dialect_of(trt).network_flags)
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse_from_file(str(request.onnx)):
        return ParseReport(release=trt.__version__)
    said, refused = log.errors(), unsupported_nodes(trt, log, request.onnx)
    lacking = {node for node in refused if trt_rtx.lacks(node.operator or node.op_type, node.reason)}
    return ParseReport(
        release=trt.__version__,
        nodes=tuple(str(node) for node in refused if node not in lacking),
        unasked=tuple(sorted({f"{node.name} ({node.operator or node.op_type})" for node in lacking})),
        said="" if refused else said,
    )
