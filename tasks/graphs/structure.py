"""What an ONNX graph is without the values of its weights, as a digest: two versions of a model may share it.

A weight is a floating-point initializer that only operators of WEIGHTS take, at the places named there: TensorRT's
parsers make weights of those, and never a plugin's field, as they may of an InstanceNormalization's. The value of every
other initializer is a part of the structure, since a parser may have made an attribute of it (the bounds of a Clip, the
scales of a Resize), a shape, or a kernel's own constant (the scales of Q/DQ nodes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from tasks.store.digests import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEIGHTS = {
    "Add": {0, 1},
    "BatchNormalization": {1, 2, 3, 4},
    "Conv": {1, 2},
    "ConvTranspose": {1, 2},
    "Div": {0, 1},
    "Gather": {0},
    "Gemm": {0, 1, 2},
    "LayerNormalization": {1, 2},
    "MatMul": {0, 1},
    "Mul": {0, 1},
    "Sub": {0, 1},
}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def structure_digest(path: Path) -> str:
    """`sha256:…` of the graph in an ONNX file without the values of its weights.

    Their names, types and shapes count, as everything else in the file does.
    """
    model = onnx.load(str(path), load_external_data=False)
    weights = weight_names(model)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        elif uses_external_data(tensor):
            content = _external_bytes(tensor, path.parent)
            kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=content)
        else:
            continue
        tensor.CopyFrom(kept)
    return digest_bytes(model.SerializeToString(deterministic=True))


def weight_names(model: onnx.ModelProto) -> set[str]:
    """The names of the initializers that are weights."""
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS}
    uses = list(_uses(model.graph))
    others = {name for name, is_weight in uses if not is_weight}
    others |= {value.name for value in (*model.graph.input, *model.graph.output)}
    return floats & {name for name, is_weight in uses if is_weight} - others


def _uses(graph: onnx.GraphProto, *, is_inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Each name that a node takes, and whether it does so as a weight: never inside a branch or a loop."""
    for node in graph.node:
        places = WEIGHTS.get(node.op_type, set()) if node.domain in {"", "ai.onnx"} and not is_inside else set()
        yield from ((name, place in places) for place, name in enumerate(node.input))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _uses(inner, is_inside=True)
                yield from ((value.name, False) for value in inner.output)


def _external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    info = ExternalDataInfo(tensor)
    with (folder / info.location).open("rb") as file:
        file.seek(info.offset or 0)
        return file.read(-1 if info.length is None else info.length)
