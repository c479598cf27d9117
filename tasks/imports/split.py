"""Divides samples into validation data and those that a calibration set may be drawn from; no group is in both."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.model.set_manifest import LEAST_SAMPLES
from tasks.readers.annotations import is_annotation
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
    """Samples in groups of one shape; `pool` is empty where there are too few to calibrate on."""

    validation: tuple[Arrays, ...]
    pool: tuple[Arrays, ...]
    size: int
    by: tuple[str, ...]


def split_samples(groups: Sequence[Arrays], seed: int) -> Split:
    """Divide samples by a seeded draw of what belongs together: groups, and rows that are the same."""
    units = [unit for group in groups for unit in _units(group)]
    counts = Counter(units)
    wanted = _pool_size(len(units))
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
    size = min(len(_alike(groups, chosen)), MOST)
    if size < LEAST_SAMPLES:
        return Split(tuple(groups), (), 0, ())
    return Split(_taken(groups, chosen, inside=False), _taken(groups, chosen, inside=True), size, _strata(groups))


def _pool_size(samples: int) -> int:
    if samples < 2 * LEAST_SAMPLES:
        return 0
    wanted = min(MOST, max(LEAST_SAMPLES, samples // SHARE))
    if samples - wanted < DECIDING <= samples - LEAST_SAMPLES:
        return samples - DECIDING
    return wanted


def _units(group: Arrays) -> list[str]:
    return [str(value) for value in group[GROUP].tolist()] if GROUP in group else _digests(group)


def _digests(group: Arrays) -> list[str]:
    inputs = [array for name, array in sorted(group.items()) if not is_annotation(name)]
    rows = range(len(inputs[0]))
    return [hashlib.sha256(b"".join(array[row].tobytes() for array in inputs)).hexdigest() for row in rows]


def _alike(groups: Sequence[Arrays], chosen: set[str]) -> set[str]:
    """Digests of the different samples that may be drawn: those that are not among the others too."""
    inside: set[str] = set()
    outside: set[str] = set()
    for group in groups:
        for unit, digest in zip(_units(group), _digests(group), strict=True):
            (inside if unit in chosen else outside).add(digest)
    return inside - outside


def _taken(groups: Sequence[Arrays], chosen: set[str], *, inside: bool) -> tuple[Arrays, ...]:
    parts = []
    for group in groups:
        places = [row for row, unit in enumerate(_units(group)) if (unit in chosen) is inside]
        if places:
            parts.append({name: array[places] for name, array in group.items()})
    return tuple(parts)


def _strata(groups: Sequence[Arrays]) -> tuple[str, ...]:
    """Slices with a few values: a set is drawn alike from these."""
    found = []
    for name in sorted(groups[0]):
        if name.startswith(SLICE) and all(name in group for group in groups):
            values = {str(value) for group in groups for value in group[name].tolist()}
            if 1 < len(values) <= MOST_VALUES:
                found.append(name.removeprefix(SLICE))
    return tuple(found[:MOST_STRATA])
