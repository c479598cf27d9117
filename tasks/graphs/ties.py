"""Whether a graph ranks equal values: which comes first is open, and PyTorch and runtimes choose differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from tasks.graphs.custom_ops import register_libraries
from tasks.graphs.onnx_files import read_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.samples.npz import Arrays

RANKING = {"TopK", "ArgMax", "ArgMin"}
LOG_ERRORS_ONLY = 3
# Of the largest value: what float32 sums in another order differ by, so that either may come out first.
ROUNDING = 2**-20


def tied_ranks(path: Path, output: str, feeds: Arrays) -> str:
    """A sentence on the first node behind `output` that ranks equal values on these inputs; nothing where none does."""
    model = read_model(path)
    nodes = [node for node in _behind(model.graph, output) if node.op_type in RANKING]
    if not nodes:
        return ""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    }
    for node, ranked in zip(
        nodes, _values(path, model, [node.input[0] for node in nodes], constants, feeds), strict=True
    ):
        share = _tied_share(node, ranked, constants)
        if share:
            return (
                f"The cause is a tie: of what {node.op_type} ranks for output {output}, {share:.0%} of the rows hold"
                " values that are equal, up to rounding, among the first or at the border. Which of them comes first is"
                " open, and PyTorch and ONNX Runtime choose differently. Rank what cannot be equal (add a little that"
                " rises with the position), or return the values and not their places"
            )
    return ""


def _behind(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in the graph's order."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _values(
    path: Path,
    model: onnx.ModelProto,
    names: Sequence[str],
    constants: Mapping[str, np.ndarray[Any, Any]],
    feeds: Arrays,
) -> list[np.ndarray[Any, Any]]:
    """What values of a graph, read from `path`, hold on these inputs."""
    inner = [name for name in dict.fromkeys(names) if name not in feeds and name not in constants]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    found: dict[str, np.ndarray[Any, Any]] = {**constants, **feeds}
    if inner:
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        register_libraries(options, path)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found |= dict(zip(inner, session.run(inner, feeds), strict=True))
    return [found[name] for name in names]


def _tied_share(
    node: onnx.NodeProto, ranked: np.ndarray[Any, Any], constants: Mapping[str, np.ndarray[Any, Any]]
) -> float:
    """The share of rows in which two of the first values, or the last of these and the next, are equal."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    default = -1 if node.op_type == "TopK" else 0
    axis = attributes.get("axis", default)
    rising = np.sort(np.moveaxis(ranked.astype(np.float64), axis, -1), axis=-1)
    falls = node.op_type == "ArgMax" or (node.op_type == "TopK" and attributes.get("largest", 1))
    ordered = rising[..., ::-1] if falls else rising
    first = 1
    if node.op_type == "TopK":
        first = int(constants[node.input[1]].reshape(-1)[0]) if node.input[1] in constants else ordered.shape[-1]
    gaps = np.abs(np.diff(ordered[..., : first + 1], axis=-1))
    return float((gaps <= ROUNDING * np.abs(ranked).max(initial=0)).any(axis=-1).mean()) if gaps.size else 0.0
