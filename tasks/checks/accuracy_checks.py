"""A remark on how often the reference itself is right, on the samples that it was tried on and that have labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.checks.remarks import Remark, good, warning
from validation.outputs import OutputKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.samples.npz import Arrays
    from tasks.specs import OutputDeclaration

CLASSES = frozenset({OutputKind.LOGITS, OutputKind.PROBABILITIES})
MATRIX = 2
ENOUGH = 32
"""Samples that tell a reference that is right less often than by chance."""


def check_accuracy(
    outputs: Mapping[str, OutputDeclaration], shards: Sequence[Arrays], labels: Sequence[np.ndarray[Any, Any]]
) -> Iterator[Remark]:
    """Say of outputs [samples, classes] how often the largest is the label's.

    Args:
        outputs: the declared outputs.
        shards: the module's outputs on the first samples of some shards.
        labels: the labels of all samples of these shards; others than numbers of classes say nothing.
    """
    for name, declared in outputs.items():
        rows = [shard[name] for shard in shards]
        if declared.kind not in CLASSES or any(array.ndim != MATRIX for array in rows):
            continue
        given, known = (
            np.concatenate(rows),
            np.concatenate([own[: len(a)] for own, a in zip(labels, rows, strict=True)]),
        )
        classes = given.shape[1]
        if known.ndim != 1 or known.dtype.kind not in "iu" or known.min() < 0 or known.max() >= classes:
            continue
        right, samples = int((given.argmax(axis=1) == known).sum()), len(known)
        text = f"{name}: the reference is right on {right:,} of {samples:,} samples with labels ({right / samples:.0%})"
        if samples >= ENOUGH and right * classes < samples:
            told = "less often than by chance: labels may be numbered in another order"
            yield warning("outputs", f"{text}, {told}")
        else:
            yield good("outputs", text)
