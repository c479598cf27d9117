"""Writes Fourier transforms of constant size as products with constant bases: TensorRT has no `DFT`, and no `STFT`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from tasks.graphs.opset17 import Lowering, NotLoweredError, Values, rewrite

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]

TRANSFORMS = ("DFT", "STFT")
REMEDY = (
    "fix the size: torch.stft with a constant n_fft, hop_length and window (or frames of constant length before"
    " torch.fft.rfft), or compute the spectrum before the model and take that as its input"
)
PARTS = 2
"""Real and imaginary, the last axis of a complex value."""


def holds_transforms(model: onnx.ModelProto) -> bool:
    """Whether there is any to write otherwise."""
    return any(node.op_type in TRANSFORMS for node in model.graph.node)


def write_out_transforms(model: onnx.ModelProto) -> None:
    """Rewrite the transforms of a model of opset 17 in place.

    Raises:
        StageError: the size of one is not constant; it is named, with what can be done.
    """
    rewrite(model, LOWERINGS, "cannot be written as a product, and TensorRT has no such operator", REMEDY)


def basis(rows: int, size: int, bins: int, *, inverse: bool = False) -> tuple[Array, Array]:
    """Cosine and sine parts [rows, bins] of a transform of `size` points, of which the first `rows` are given.

    X[k] = sum over n of x[n] exp(-2 pi i n k / size); the inverse has the other sign, and 1 / size.
    """
    turns = np.outer(np.arange(rows), np.arange(bins)) % size / size
    sign, scale = (1.0, 1.0 / size) if inverse else (-1.0, 1.0)
    real, imaginary = scale * np.cos(2 * np.pi * turns), scale * sign * np.sin(2 * np.pi * turns)
    real[size:], imaginary[size:] = 0, 0
    return real, imaginary


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _lower_dft(node: onnx.NodeProto, values: Values) -> list[onnx.NodeProto]:
    """Samples and their parts become one axis, which a product with the basis takes to bins and theirs."""
    shape = values.shape(node.input[0])
    rank, out = len(shape), node.output[0]
    axis = _attribute(node, "axis", 1) % rank
    given, parts = shape[axis], shape[-1]
    if given is None or parts is None:
        raise NotLoweredError("the extent that it transforms is not constant")
    size = given
    if len(node.input) > 1 and node.input[1]:
        size = int(values.constant(node.input[1], "lengths").reshape(-1)[0])
    table = _table(given, size, parts, inverse=_attribute(node, "inverse", 0), onesided=_attribute(node, "onesided", 0))
    _, _, bins, made = table.shape
    matrix = values.add(table.reshape(given * parts, bins * made).astype(np.float32), out)
    others = [place for place in range(rank - 1) if place != axis]
    order = [*others, axis, rank - 1]
    joined = values.add(np.array([*([0] * len(others)), given * parts], np.int64), out)
    parted = values.add(np.array([*([0] * len(others)), bins, made], np.int64), out)
    names = [f"{out}_{step}" for step in ("turned", "joined", "product", "parted")]
    return [
        helper.make_node("Transpose", [node.input[0]], [names[0]], name=f"{out}_turn", perm=order),
        helper.make_node("Reshape", [names[0], joined], [names[1]], name=f"{out}_join"),
        helper.make_node("MatMul", [names[1], matrix], [names[2]], name=f"{out}_transform"),
        helper.make_node("Reshape", [names[2], parted], [names[3]], name=f"{out}_part"),
        helper.make_node("Transpose", [names[3]], [out], name=f"{out}_turn_back", perm=np.argsort(order).tolist()),
    ]


def _table(given: int, size: int, parts: int, *, inverse: int, onesided: int) -> Array:
    """What takes `given` values of so many `parts` to a transform of `size`: [given, parts, bins, parts made].

    One-sided, a transform of real values has half the bins; its inverse is given these, and makes real values.
    """
    bins = size // PARTS + 1 if onesided and not inverse else size
    real, imaginary = basis(given, size, bins, inverse=bool(inverse))
    if onesided and inverse:
        twice = np.where((np.arange(given) == 0) | (np.arange(given) * PARTS == size), 1, 2)[:, None]
        return np.stack([twice * real, -twice * imaginary], 1)[..., None]
    table = np.stack([real, imaginary], -1)[:, None]
    if parts == PARTS:
        table = np.concatenate([table, np.stack([-imaginary, real], -1)[:, None]], 1)
    return table


def _lower_stft(node: onnx.NodeProto, values: Values) -> list[onnx.NodeProto]:
    """A convolution: its kernels are the basis under the window, its stride is the hop. The signal is real."""
    shape, out = values.shape(node.input[0]), node.output[0]
    if len(shape) == 3 and shape[-1] != 1:  # noqa: PLR2004 - samples, time and parts
        raise NotLoweredError("its signal is complex")
    hop = int(values.constant(node.input[1], "steps").reshape(-1)[0])
    has_window = len(node.input) > PARTS and bool(node.input[2])
    window = values.constant(node.input[2], "window's values").reshape(-1) if has_window else None
    if len(node.input) > 3 and node.input[3]:  # noqa: PLR2004 - the fourth input is the length
        size = int(values.constant(node.input[3], "frame lengths").reshape(-1)[0])
    elif window is not None:
        size = len(window)
    else:
        raise NotLoweredError("it has neither a window nor a frame length")
    bins = size // PARTS + 1 if _attribute(node, "onesided", 1) else size
    weighted = np.stack(basis(size, size, bins)) * (np.ones(size) if window is None else window)[:, None]
    kernels = values.add(weighted.transpose(0, 2, 1).reshape(PARTS * bins, 1, size).astype(np.float32), out)
    line = values.add(np.array([0, 1, -1], np.int64), out)
    parted = values.add(np.array([0, PARTS, bins, -1], np.int64), out)
    names = [f"{out}_{step}" for step in ("line", "product", "parted")]
    return [
        helper.make_node("Reshape", [node.input[0], line], [names[0]], name=f"{out}_join"),
        helper.make_node("Conv", [names[0], kernels], [names[1]], name=f"{out}_transform", strides=[hop]),
        helper.make_node("Reshape", [names[1], parted], [names[2]], name=f"{out}_part"),
        helper.make_node("Transpose", [names[2]], [out], name=f"{out}_turn", perm=[0, 3, 2, 1]),
    ]


LOWERINGS: dict[str, Lowering] = {"DFT": _lower_dft, "STFT": _lower_stft}
