"""Remarks on what outputs hold, against the kind that model.yaml says they are of: a look at some samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.checks.remarks import Level, Remark, good, warning
from validation.misfits import classes_last
from validation.outputs import OutputKind
from validation.populations import MOST_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.samples.npz import Arrays
    from tasks.specs import OutputDeclaration

    Array = np.ndarray[Any, Any]

SUBJECT = "outputs"
TOLERANCE = 1e-3
"""How far probabilities may be from 1 together, and a value beyond its range, as a share of that."""
ENOUGH = 8
"""Samples that tell whether an output is always the same, or whole by chance."""


def check_outputs(outputs: Mapping[str, OutputDeclaration], shards: Sequence[Arrays]) -> Iterator[Remark]:
    """Hold what the module gave on samples of the validation data against what model.yaml declares.

    Args:
        outputs: the declared outputs.
        shards: the module's outputs on a few shards, first axis the samples.
    """
    for name, declared in outputs.items():
        arrays = [shard[name] for shard in shards]
        problems = list(_problems(name, declared, arrays))
        yield from problems
        if not problems:
            yield good(SUBJECT, f"{name}: {declared.kind.value}, {_seen(arrays)}")


def _problems(name: str, declared: OutputDeclaration, arrays: Sequence[Array]) -> Iterator[Remark]:
    place = f"outputs.{name}"
    bad = sum(int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).sum()) for array in arrays)
    if bad:
        samples = sum(map(len, arrays))
        text = f"{place}: NaN or Inf on {bad} of {samples} samples; correct the module or its weights"
        yield Remark(SUBJECT, Level.STOP, text)
        return
    if _never_changes(arrays):
        yield warning(SUBJECT, f"{place}: is the same for every sample, so that nothing is measured by it")
        return
    finders = {
        OutputKind.SCORE: _find_in_score,
        OutputKind.PROBABILITIES: _find_in_probabilities,
        OutputKind.LOGITS: _find_in_logits,
    }
    find = finders.get(declared.kind)
    if find is not None:
        yield from (warning(SUBJECT, f"{place}: {text}") for text in find(declared, arrays))


def _find_in_score(declared: OutputDeclaration, arrays: Sequence[Array]) -> Iterator[str]:
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    if declared.range is not None:
        slack = TOLERANCE * (declared.range[1] - declared.range[0])
        if low < declared.range[0] - slack or high > declared.range[1] + slack:
            yield (
                f"range {list(declared.range)}, and it gives {low:.4g} to {high:.4g}; correct the range, on which"
                " bounds and default limits rest"
            )
    columns = int(np.prod(arrays[0].shape[1:]))
    if columns > MOST_COLUMNS:
        yield (
            f"a score of {columns:,} columns is judged as one population of numbers; if it says a class of each place"
            " or several labels, kind segmentation or multilabel measures what is decided"
        )
    if declared.range is None and _are_whole(arrays):
        yield (
            "whole numbers, called a score: if they name classes, 3 is no nearer to 4 than to 9; have the module return"
            " integers and declare kind labels, or give the logits. If they count, say so by a range"
        )


def _find_in_probabilities(declared: OutputDeclaration, arrays: Sequence[Array]) -> Iterator[str]:
    arrays = [classes_last(declared.as_output_spec(), array) for array in arrays]
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        yield f"values from {low:.4g} to {high:.4g} are no probabilities; declare kind logits, or apply a softmax"
    elif _classes(arrays[0]) > 1 and not _sums_to_one(arrays, -1):
        sums = np.concatenate([array.sum(axis=-1).reshape(-1) for array in arrays])
        yield (
            f"sum to {sums.min():.4g} to {sums.max():.4g} over the classes, and not to 1; if each is of a label of its"
            " own, declare kind multilabel; if not, apply a softmax"
        )


def _find_in_logits(declared: OutputDeclaration, arrays: Sequence[Array]) -> Iterator[str]:
    arrays = [classes_last(declared.as_output_spec(), array) for array in arrays]
    if _classes(arrays[0]) > 1 and all(float(a.min()) >= 0 for a in arrays) and _sums_to_one(arrays, -1):
        yield "sum to 1 and none is below 0: these are probabilities; declare that kind, or leave out the softmax"


def _classes(array: Array) -> int:
    return int(array.shape[-1]) if array.ndim > 1 else 1


def _sums_to_one(arrays: Sequence[Array], axis: int) -> bool:
    return all(bool((abs(array.sum(axis=axis) - 1) <= TOLERANCE).all()) for array in arrays)


def _are_whole(arrays: Sequence[Array]) -> bool:
    values = np.concatenate([array.reshape(-1) for array in arrays])
    return values.size >= ENOUGH and bool((values == np.rint(values)).all())


def _never_changes(arrays: Sequence[Array]) -> bool:
    if sum(map(len, arrays)) < ENOUGH or len({array.shape[1:] for array in arrays}) > 1:
        return False
    return all(bool((array == arrays[0][:1]).all()) for array in arrays)


def _seen(arrays: Sequence[Array]) -> str:
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    return f"{low:.3g} to {high:.3g} on {sum(map(len, arrays))} samples"
