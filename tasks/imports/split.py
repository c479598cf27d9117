"""Divides samples into validation data and those that a calibration set may be drawn from; no group is in both."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.model.set_manifest import LEAST_SAMPLES
from tasks.readers.annotations import is_annotation
from tasks.readers.lazy_groups import select_rows
from tasks.samples.data_spec import GROUP, SLICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.samples.npz import Arrays

SHARE = 5
"""One in so many samples may be drawn."""
MOST, DECIDING = 512, 300
"""Most samples of a set, and the fewest that a policy decides on unless it says otherwise."""
MOST_VALUES, MOST_STRATA = 16, 2


@dataclass(frozen=True)
class Split:
    """Samples in groups of one shape; `pool` is empty where there are too few to calibrate on.

    `kept` counts the samples to validate on.
    """

    validation: Sequence[Arrays]
    pool: Sequence[Arrays]
    kept: int
    size: int
    by: tuple[str, ...]


def split_samples(groups: Sequence[Arrays], seed: int) -> Split:
    """Divide samples by a seeded draw of what belongs together: groups, and rows that are the same."""
    units, digests, beside = _look_through(groups)
    counts = Counter(unit for group in units for unit in group)
    samples = counts.total()
    wanted = _pool_size(samples)
    order = np.array(sorted(counts), np.str_)
    np.random.default_rng(seed).shuffle(order)
    chosen: set[str] = set()
    total = 0
    for unit in order.tolist():
        if total >= wanted or len(chosen) == len(counts) - 1:
            break
        if total + counts[unit] <= 2 * wanted:
            chosen.add(unit)
            total += counts[unit]
    size = min(len(_alike(units, digests, chosen)), MOST)
    if size < LEAST_SAMPLES:
        return Split(groups, (), samples, 0, ())
    inside = [[row for row, unit in enumerate(group) if unit in chosen] for group in units]
    outside = [[row for row, unit in enumerate(group) if unit not in chosen] for group in units]
    validation, pool = select_rows(groups, outside), select_rows(groups, inside)
    return Split(validation, pool, samples - total, size, _strata(beside))


def _look_through(groups: Sequence[Arrays]) -> tuple[list[list[str]], list[list[str]], list[Arrays]]:
    """Of each group the units and the digests of its samples, and what lies beside the inputs."""
    units, digests, beside = [], [], []
    for group in groups:
        digests.append(_digests(group))
        units.append([str(value) for value in group[GROUP].tolist()] if GROUP in group else digests[-1])
        beside.append({name: array for name, array in group.items() if is_annotation(name)})
    return units, digests, beside


def _pool_size(samples: int) -> int:
    if samples < 2 * LEAST_SAMPLES:
        return 0
    wanted = min(MOST, max(LEAST_SAMPLES, samples // SHARE))
    if samples - wanted < DECIDING <= samples - LEAST_SAMPLES:
        return samples - DECIDING
    return wanted


def _digests(group: Arrays) -> list[str]:
    inputs = [array for name, array in sorted(group.items()) if not is_annotation(name)]
    rows = range(len(inputs[0]))
    return [hashlib.sha256(b"".join(array[row].tobytes() for array in inputs)).hexdigest() for row in rows]


def _alike(units: Sequence[Sequence[str]], digests: Sequence[Sequence[str]], chosen: set[str]) -> set[str]:
    """Digests of the different samples that may be drawn: those that are not among the others too."""
    inside: set[str] = set()
    outside: set[str] = set()
    for group, own in zip(units, digests, strict=True):
        for unit, digest in zip(group, own, strict=True):
            (inside if unit in chosen else outside).add(digest)
    return inside - outside


def _strata(groups: Sequence[Arrays]) -> tuple[str, ...]:
    """Slices with a few values: a set is drawn alike from these."""
    found = []
    for name in sorted(groups[0]):
        if name.startswith(SLICE) and all(name in group for group in groups):
            values = {str(value) for group in groups for value in group[name].tolist()}
            if 1 < len(values) <= MOST_VALUES:
                found.append(name.removeprefix(SLICE))
    return tuple(found[:MOST_STRATA])
