"""Samples that are nearly the same as another, which is no proof that they hang together, and reason to ask.

Two samples are near where, in every input of numbers with a fraction, they differ by less than 1e-4 of its range (root
mean square), or by an angle whose cosine is above 0.9999, seen from the mean. Each column of a table is taken in
its own range first, since columns may be of very unlike units. Distances are estimated by 64 random projections of each
sample (Johnson and Lindenstrauss 1984), known to some 10 %.
"""

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from validation.groups import Keys, Numbers

Floats = NDArray[np.float64]

MOST_SEARCHED = 4096
"""Samples among which near ones are looked for: the work grows with the square."""
TOLD_SHARE = 0.01
"""Fewer near repeats than this share are not worth a word: some are there by chance."""
NEAR_OF_RANGE, NEAR_COSINE = 1e-4, 0.9999
LEAST_NUMBERS = 8
"""Samples of fewer numbers lie near each other by chance."""
TABLE_COLUMNS = 1024
"""A matrix of no more columns is a table, whose columns have units of their own; of more it is a signal."""
_PROJECTIONS = 64
_COLUMNS = 4096
_ROWS = 512
_SEED = 20261130


class NearRepeats:
    """Takes samples batch by batch, at most `MOST_SEARCHED` of them, and counts those that are near an earlier one.

    `searched` counts the samples that it took.
    """

    def __init__(self) -> None:
        self._sketches: dict[tuple[tuple[str, tuple[int, ...]], ...], list[dict[str, Numbers]]] = {}
        self._keys: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Keys]] = {}
        self._ends: dict[str, tuple[float, float]] = {}
        self.searched = 0

    def add(self, inputs: Mapping[str, Numbers], keys: Keys) -> None:
        """Take in samples `[n, ...]` by input; those whose `keys` `[n]` differ are never near each other."""
        shapes = tuple((name, values.shape[1:]) for name, values in sorted(inputs.items()))
        if not len(keys) or sum(prod(shape) for _, shape in shapes) < LEAST_NUMBERS:
            return
        for name, values in inputs.items():
            low, high = self._ends.get(name, (np.inf, -np.inf))
            self._ends[name] = min(low, float(values.min())), max(high, float(values.max()))
        kept = {name: values if _is_table(values.shape[1:]) else _sketch(values) for name, values in inputs.items()}
        self._sketches.setdefault(shapes, []).append(kept)
        self._keys.setdefault(shapes, []).append(keys)
        self.searched += len(keys)

    @property
    def count(self) -> int:
        """How many samples are near an earlier one."""
        return sum(self._count(shapes, parts) for shapes, parts in self._sketches.items())

    def _count(self, shapes: tuple[tuple[str, tuple[int, ...]], ...], parts: list[dict[str, Numbers]]) -> int:
        keys = np.concatenate(self._keys[shapes])
        sketches = {}
        for name, shape in shapes:
            whole = np.concatenate([part[name] for part in parts])
            (low, high), numbers = self._ends[name], prod(shape)
            if _is_table(shape):
                whole, numbers = _in_own_ranges(whole)
                whole, low, high = _sketch(whole), 0.0, 1.0
            sketches[name] = whole - whole.mean(axis=0), NEAR_OF_RANGE * (high - low) * numbers**0.5
        found = 0
        for start in range(0, len(keys), _ROWS):
            near = keys[start : start + _ROWS, None] == keys
            for sketch, least in sketches.values():
                near &= _near(sketch, slice(start, start + _ROWS), least)
            found += int(np.tril(near, start - 1).any(axis=1).sum())
        return found


def near_in_words(near: int, searched: int) -> str:
    """`40 of 240 are nearly the same as another`, and what to do; empty where there are hardly any."""
    if near < max(1.0, TOLD_SHARE * searched):
        return ""
    return f"{near:,} of {searched:,} are nearly the same as another: if they belong together, name their `group`"


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and shape[0] <= TABLE_COLUMNS


def _in_own_ranges(table: Numbers) -> tuple[Floats, int]:
    """`[n, columns]` with every column from 0 to 1, and how many are not the same throughout."""
    values = table.astype(np.float64)
    low = values.min(axis=0)
    ranges = values.max(axis=0) - low
    return np.divide(values - low, ranges, out=np.zeros_like(values), where=ranges > 0), int(np.count_nonzero(ranges))


def _sketch(values: Numbers) -> Floats:
    flat = values.reshape(len(values), -1)
    found = np.zeros((len(flat), _PROJECTIONS))
    for start in range(0, flat.shape[1], _COLUMNS):
        part = flat[:, start : start + _COLUMNS].astype(np.float64)
        signs = np.random.Generator(np.random.PCG64([_SEED, start])).integers(0, 2, (part.shape[1], _PROJECTIONS))
        found += part @ (2.0 * signs - 1.0)
    return np.asarray(found / np.sqrt(_PROJECTIONS))


def _near(sketch: Floats, rows: slice, least: float) -> NDArray[np.bool_]:
    squares = (sketch * sketch).sum(axis=1)
    distance = np.maximum(squares[rows, None] + squares - 2 * (sketch[rows] @ sketch.T), 0.0)
    largest = np.maximum(squares[rows, None], squares)
    return np.asarray((distance <= least * least) | (distance < 2 * (1 - NEAR_COSINE) * largest))
