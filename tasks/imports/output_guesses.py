"""Kinds of outputs: from the task head of a Hugging Face model, from names, and from what a few samples give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.imports.draft import Guess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, Any]

TOLERANCE = 1e-3
MATRIX = 2
HEADS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ForSequenceClassification": ("logits", {}),
    "ForImageClassification": ("logits", {}),
    "ForAudioClassification": ("logits", {}),
    "ForMultipleChoice": ("logits", {}),
    "ForTokenClassification": ("logits", {"axis": -1}),
    "ForMaskedLM": ("language", {}),
    "ForCausalLM": ("language", {}),
    "LMHeadModel": ("language", {}),
    "ForCTC": ("ctc", {"axis": -1}),
    "ForSemanticSegmentation": ("segmentation", {"axis": 1}),
}
"""Kind and keys of `logits` by the end of an architecture's name."""


def guess_outputs(
    seen: Sequence[Mapping[str, Array]],
    config: Mapping[str, Any],
    masks: Mapping[str, Sequence[int]],
    labels: Array | None,
    origin: str,
) -> dict[str, Guess]:
    """A kind for each output.

    Args:
        seen: the outputs on a few groups of samples.
        config: config.json, or nothing.
        masks: inputs that are zero at padding, with their number of positions in each of the groups.
        labels: the labels of all samples, where there are any.
        origin: the model's name, for errors.

    Raises:
        InputError: an output holds NaN, or is of no type that can be compared.
    """
    found = {}
    for name in seen[0]:
        arrays = [group[name] for group in seen]
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
            raise InputError(f"{origin}: output {name} holds NaN or Inf on the first samples; correct the model")
        if arrays[0].dtype.kind not in "fiub":
            raise InputError(f"{origin}: output {name} is {arrays[0].dtype}, which cannot be compared; leave it out")
        guess = _by_head(name, arrays, config) or _by_name(name, arrays) or _by_values(arrays, labels)
        found[name] = _with_mask(guess, arrays, masks)
    return found


def _by_head(name: str, arrays: Sequence[Array], config: Mapping[str, Any]) -> Guess | None:
    architectures = config.get("architectures") or []
    if name != "logits" or not architectures:
        return None
    architecture = str(architectures[0])
    why = f"the head of {architecture}"
    for end, (kind, keys) in HEADS.items():
        if not architecture.endswith(end):
            continue
        problem = config.get("problem_type")
        if problem == "multi_label_classification":
            return Guess({"kind": "multilabel", "threshold": 0}, f"{why}, each label on its own; 0 of logits is half")
        if end.endswith("Classification") and (problem == "regression" or _columns(arrays) == 1):
            return Guess({"kind": "score"}, f"{why}, one number; give its range, on which limits rest")
        blank = {"blank": int(config.get("pad_token_id") or 0)} if kind == "ctc" else {}
        return Guess({"kind": kind, **keys, **blank}, why)
    return None


def _by_name(name: str, arrays: Sequence[Array]) -> Guess | None:
    if arrays[0].dtype.kind != "f" or arrays[0].ndim != MATRIX or _columns(arrays) == 1:
        return None
    if "logit" in name.lower():
        return Guess({"kind": "logits"}, "it is called so")
    if "embed" in name.lower() or name == "pooler_output":
        return Guess({"kind": "embedding"}, "its name says so")
    return None


def _by_values(arrays: Sequence[Array], labels: Array | None) -> Guess:
    first = arrays[0]
    if first.dtype.kind != "f":
        return Guess({"kind": "labels"}, f"{first.dtype}: whole numbers, which are equal or not")
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    within = low >= 0 and high <= 1
    if first.ndim == 1 or (first.ndim == MATRIX and _columns(arrays) == 1):
        told = f"one number a sample, {low:.3g} to {high:.3g} here"
        return Guess({"kind": "score", "range": [0, 1]}, told) if within else _without_range(told)
    return (_by_length(arrays) if not within else _by_sums(arrays)) or _of_matrix(arrays, labels, within=within)


def _without_range(told: str) -> Guess:
    return Guess({"kind": "score"}, f"{told}; give its range, on which limits rest")


def _by_sums(arrays: Sequence[Array]) -> Guess | None:
    if _all(arrays, lambda array: array.sum(axis=-1), 1):
        keys = {} if arrays[0].ndim == MATRIX else {"axis": -1}
        return Guess({"kind": "probabilities", **keys}, "none below 0, and rows sum to 1")
    if arrays[0].ndim > MATRIX and _all(arrays, lambda array: array.sum(axis=1), 1):
        return Guess({"kind": "probabilities", "axis": 1}, "none below 0, and sums over axis 1 are 1")
    return _by_length(arrays)


def _by_length(arrays: Sequence[Array]) -> Guess | None:
    if not _all(arrays, lambda array: np.linalg.norm(array, axis=-1), 1):
        return None
    return Guess({"kind": "embedding"}, "vectors of length 1")


def _of_matrix(arrays: Sequence[Array], labels: Array | None, *, within: bool) -> Guess:
    columns = _columns(arrays)
    whole = labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 and len(labels) > 0
    if arrays[0].ndim == MATRIX and whole and labels is not None and labels.min() >= 0 and labels.max() < columns:
        if within:
            return Guess({"kind": "multilabel"}, f"{columns} columns within 0 and 1 that do not sum to 1")
        return Guess({"kind": "logits"}, f"{columns} columns, and labels from {labels.min()} to {labels.max()}")
    if arrays[0].ndim == MATRIX and within:
        return Guess({"kind": "score", "range": [0, 1]}, f"{columns} columns within 0 and 1 that do not sum to 1")
    return Guess({"kind": "tensor"}, "numbers that say nothing of their meaning; docs/kinds.md has other kinds")


def _columns(arrays: Sequence[Array]) -> int:
    return int(arrays[0].shape[-1]) if arrays[0].ndim > 1 else 1


def _all(arrays: Sequence[Array], of: Any, value: float) -> bool:
    return all(bool((np.abs(of(array) - value) <= TOLERANCE).all()) for array in arrays)


def _with_mask(guess: Guess, arrays: Sequence[Array], masks: Mapping[str, Sequence[int]]) -> Guess:
    """With the input that is zero at padding, where the output has as many positions at each shape."""
    if guess.value["kind"] in {"score", "boxes"} or arrays[0].ndim <= MATRIX - (arrays[0].dtype.kind != "f"):
        return guess
    for name, positions in masks.items():
        if [array.shape[1] for array in arrays] == list(positions):
            value = {key: each for key, each in guess.value.items() if key != "axis"}
            return Guess({**value, "mask": name}, f"{guess.why}; a position each, and {name} leaves padding out")
    return guess
