"""Reads and writes ONNX files: weights that stay in their folder, and no trace of the host that made them."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from tasks.errors import EnginegateError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
# Protobuf refuses a message of 2 GiB; what is not weights needs some room below that.
EXTERNAL_DATA_BYTES = (2 << 30) - (64 << 20)
EXTERNAL_TENSOR_BYTES = 1024
HOST_DETAILS = re.compile(r"(?<![\w.])/[^\s:'\")]+|0x[0-9a-fA-F]+")
REASON_LENGTH = 240
QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}


def find_model(folder: Path) -> Path:
    """The ONNX file of a folder, checked by `check_external_data`."""
    path = next(folder.glob("*.onnx"))
    check_external_data(path)
    return path


def fetched_model(folder: Path) -> Path:
    """The ONNX file of a folder that the store has laid out.

    A store may hand out hard links, and the onnx package takes weights with a second link for an attack: they are
    copied. (ONNX Runtime and TensorRT read them as they are.)
    """
    for weights in folder.glob("*.data"):
        if weights.stat().st_nlink > 1:
            copy = weights.with_suffix(".copy")
            shutil.copyfile(weights, copy)
            copy.replace(weights)
    return find_model(folder)


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file that cannot be read, or whose weights do not lie beside it.

    Raises:
        InputError: naming the file, and the tensor and its location where one is at fault.
    """
    external_files(path)


def external_files(path: Path) -> dict[str, Path]:
    """The files beside an ONNX file that its tensors keep their data in, by path from its folder.

    Raises:
        InputError: as `check_external_data`.
    """
    folder, found = path.parent.resolve(), {}
    for tensor in _get_all_tensors(_parse(path)):
        if not uses_external_data(tensor):
            continue
        location = ExternalDataInfo(tensor).location
        target = (folder / location).resolve()
        # The store hands out hard links, so a link is never needed to reach the weights.
        if not location or not target.is_relative_to(folder) or ".." in location.split("/"):
            raise InputError(
                f"{path.name}: tensor {tensor.name!r} keeps its data at {location!r}, outside the model's folder;"
                " save the model again with its external data beside it"
            )
        if not target.is_file():
            raise InputError(
                f"{path.name}: tensor {tensor.name!r} keeps its data in {location!r}, which is missing;"
                " put that file beside the model"
            )
        found[location] = target
    return found


def _parse(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise InputError(f"{path.name}: cannot be read as ONNX ({error}); export the model again") from None


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights; see `check_external_data` for what is refused."""
    check_external_data(path)
    return onnx.load(str(path))


def write_model(model: onnx.ModelProto, folder: Path, *, external_bytes: int = EXTERNAL_DATA_BYTES) -> Path:
    """Write `model` into `folder` without host paths; from `external_bytes` of weights on, they get their own file.

    `model` is changed, and loses weights that went to that file: read it again to go on with it.
    """
    strip_host_traces(model)
    path = folder / MODEL_FILE
    external = weight_bytes(model) >= external_bytes
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=external,
        all_tensors_to_one_file=True,
        location=WEIGHTS_FILE if external else None,
        size_threshold=EXTERNAL_TENSOR_BYTES,
    )
    return path


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers that are in memory; protobuf's own `ByteSize` fails on models of more than 2 GiB."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model uses."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"})


def holds_quantization(path: Path) -> bool:
    """Whether the model already has QuantizeLinear or DequantizeLinear nodes, as after quantization-aware training."""
    return any(node.op_type in QUANTIZING for node in _parse(path).graph.node)


def short_reason(error: BaseException) -> str:
    """The first line of an error, fit for a record: without paths of this host and without addresses.

    Its class comes first, unless it is one of ours, whose messages say what happened.
    """
    line = HOST_DETAILS.sub("…", next(iter(str(error).splitlines()), ""))
    return (line if isinstance(error, EnginegateError) else f"{type(error).__name__}: {line}")[:REASON_LENGTH]


def renew_shapes(model: onnx.ModelProto) -> None:
    """Replace what the graph says of the shapes of its inner tensors by what follows from its inputs.

    Converters write one symbol for every extent that they cannot infer, and a runtime takes two extents of one symbol
    for equal: such a graph runs at the shapes at which they happen to be, and fails at others. With no shapes at all,
    ONNX Runtime 1.31 dies of some graphs while it loads them.
    """
    _drop_shapes(model.graph)
    for function in model.functions:
        del function.value_info[:]
    # Protobuf takes no more than 2 GiB, and shapes follow from small tensors alone.
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > EXTERNAL_TENSOR_BYTES]
    contents = [tensor.raw_data for tensor in large]
    for tensor in large:
        tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(model)
    for tensor, content in zip(large, contents, strict=True):
        tensor.raw_data = content
    model.graph.value_info.extend(inferred.graph.value_info)


def _drop_shapes(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        for inner in inner_graphs(node):
            _drop_shapes(inner)


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes: the bodies of If, Loop and Scan."""
    return [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node]


def strip_host_traces(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata everywhere: exporters write stack traces with file names into them."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip_graph(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
        _strip_nodes(function.node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    del graph.metadata_props[:]
    graph.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for value in (*graph.value_info, *graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            attribute.doc_string = ""
        for graph in inner_graphs(node):
            _strip_graph(graph)
