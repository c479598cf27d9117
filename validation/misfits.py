"""Whether an output is what its kind holds, where its classes lie, and what it decides."""

from typing import Any

import numpy as np

from validation import boxes
from validation.kinds import DEFAULT_THRESHOLD, FLOATS, KEYS, KINDS, SAMPLES_AND_CLASSES, WHOLE
from validation.outputs import OutputKind, OutputSpec

DECISIONS = frozenset(
    {OutputKind.LABELS, OutputKind.MULTILABEL, OutputKind.SEGMENTATION, OutputKind.BOXES, OutputKind.CTC}
)
"""Kinds of which it counts what is decided."""


def find_wrong_key(spec: OutputSpec) -> str | None:
    """What is wrong with the keys of an output, as `field: reason; remedy`; None if nothing is."""
    row = KINDS[spec.kind]
    for key in KEYS:
        if getattr(spec, key) is not None and key not in row.keys:
            having = ", ".join(kind.value for kind, other in KINDS.items() if key in other.keys)
            return f"{key}: kind {spec.kind.value} has none; remove it, or take one of {having}"
    if spec.mask is not None and spec.kind is OutputKind.BOXES:
        return f"mask: boxes are left out by their score, not by {spec.mask}; remove it"
    if spec.axis == 0:
        return "axis: 0 is that of the samples; write the one that holds the classes, 1 or -1 for instance"
    return None


def find_misfit(spec: OutputSpec, output: np.ndarray[Any, Any], mask_axes: int | None = None) -> str | None:
    """Why an output is not of its kind, and what to write instead; None where it is one.

    `mask_axes` is how many axes its mask has, where it has one.
    """
    row = KINDS[spec.kind]
    if output.dtype.kind in FLOATS + WHOLE and output.dtype.kind not in row.holds:
        return _wrong_numbers(spec.kind, output.dtype)
    least, most = row.axes
    if output.ndim < least or (most is not None and output.ndim > most):
        return f"has shape {_shape(output)}, and kind {spec.kind.value} is {row.shape}; declare another kind"
    if spec.kind is OutputKind.BOXES and output.shape[-1] not in boxes.COLUMNS:
        return f"has {output.shape[-1]} columns, and kind boxes is {row.shape}; bring it into that order"
    return _wrong_axis(spec, output, mask_axes) if row.has_classes else None


def _shape(output: np.ndarray[Any, Any]) -> str:
    """`[n, 10, 9]`: how many samples a batch has says nothing."""
    return f"[{', '.join(['n', *map(str, output.shape[1:])])}]"


def _wrong_numbers(kind: OutputKind, dtype: np.dtype[Any]) -> str:
    if dtype.kind in FLOATS:
        return (
            f"holds {dtype}, and kind {kind.value} is of whole numbers, or true and false; write kind: tensor, or have"
            " the module return whole numbers"
        )
    what = "true and false" if dtype.kind == "b" else "whole numbers"
    score = "" if dtype.kind == "b" else ", or kind: score, where a difference between two of them has a size"
    return (
        f"holds {dtype}, {what}, and kind {kind.value} measures sizes; write kind: labels, which counts how many are"
        f" equal{score}"
    )


def _wrong_axis(spec: OutputSpec, output: np.ndarray[Any, Any], mask_axes: int | None) -> str | None:
    if are_numbers_of_classes(spec, output):
        return None if spec.axis is None else f"holds {output.dtype}, a class for each position; remove axis"
    axis = spec.axis
    if axis is not None and not (1 <= axis < output.ndim or 1 - output.ndim <= axis < 0):
        return f"has {output.ndim} axes {_shape(output)}, and axis {axis} is none of its classes; correct axis"
    said = axis is not None or spec.kind is OutputKind.LANGUAGE or mask_axes == output.ndim - 1
    if output.ndim <= SAMPLES_AND_CLASSES or said:
        return None
    return (
        f"has {output.ndim} axes {_shape(output)}, and nothing says which of them holds the classes; write axis: 1"
        " where they come right after the samples, as in NCHW, or axis: -1 where they come last"
    )


def are_numbers_of_classes(spec: OutputSpec, output: np.ndarray[Any, Any]) -> bool:
    """Whether an output is a map of the numbers of classes, and so has no axis of classes."""
    return spec.kind is OutputKind.SEGMENTATION and output.dtype.kind in WHOLE


def elements_are_positions(spec: OutputSpec, output: np.ndarray[Any, Any]) -> bool:
    """Whether a mask may leave out each element on its own; else what a position has lies on the last axis."""
    return spec.kind in {OutputKind.TENSOR, OutputKind.LABELS} or are_numbers_of_classes(spec, output)


def decisions_of(spec: OutputSpec, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What an output of `DECISIONS`, its classes on the last axis, decides: labels, classes, or which of them hold."""
    threshold = DEFAULT_THRESHOLD if spec.threshold is None else spec.threshold
    if spec.kind is OutputKind.LABELS or output.dtype.kind in WHOLE:
        return output
    if spec.kind is OutputKind.BOXES:
        return np.asarray(output[..., boxes.SCORE] >= threshold)
    if spec.kind is OutputKind.MULTILABEL or output.shape[-1] == 1:
        return np.asarray(output >= threshold)
    return np.asarray(output.argmax(axis=-1))


def classes_last(spec: OutputSpec, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view of an output with its classes on the last axis, where it has any; see `find_misfit`."""
    axis = spec.axis
    if axis is None or are_numbers_of_classes(spec, output) or not -output.ndim <= axis < output.ndim:
        return output
    return np.moveaxis(output, axis, -1)
