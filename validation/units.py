"""Sums over units of samples that stream by: what a bootstrap of a million samples needs, in bounded memory.

A unit is one sample until there are more than `2 * MOST_UNITS`; then neighbours are joined two by two, again and again.
Sums are added up in one fixed order, so that the same samples give the same bytes, cut into shards anywhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
"""Numbers by name, an array each; all of one shape."""

MOST_UNITS = 2048
"""Units are joined when there are twice as many. With so many, the spread between units is known to 1 or 2 %."""
LARGEST_PART = 1024
"""Samples whose numbers are held until they are added up."""


class Units:
    """Running sums of `names` over units of equally many samples, in the order in which the samples came."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums: Floats = np.zeros((0, len(self._names)))
        self._rows: Floats = np.zeros((0, len(self._names)))  # samples that fill no part of a unit yet
        self._parts: Floats = np.zeros((0, len(self._names)))  # parts that fill no unit yet
        self._size = 1
        self.samples = 0

    def add(self, columns: Columns) -> None:
        """Take in the numbers of some samples, `[n]` by name."""
        count = len(next(iter(columns.values())))
        for start in range(0, count, MOST_UNITS):
            part = [np.asarray(columns[name][start : start + MOST_UNITS], dtype=np.float64) for name in self._names]
            self._add(np.stack(part, axis=1))
        self.samples += count

    def _add(self, rows: Floats) -> None:
        rows = np.concatenate([self._rows, rows])
        while len(rows) >= self._part:
            room = (2 * MOST_UNITS - len(self._sums)) * self._size - len(self._parts) * self._part
            whole = min(len(rows) // self._part * self._part, room)
            self._parts = np.concatenate([self._parts, _join(rows[:whole], self._part)])
            rows = rows[whole:]
            self._join_parts()
        self._rows = rows

    def _join_parts(self) -> None:
        parts = self._size // self._part
        whole = len(self._parts) // parts * parts
        self._sums = np.concatenate([self._sums, _join(self._parts[:whole], parts)])
        self._parts = self._parts[whole:]
        if len(self._sums) == 2 * MOST_UNITS:
            self._sums = _join(self._sums, 2)
            self._size *= 2

    @property
    def _part(self) -> int:
        """Samples that are joined at once: a unit may be too large to wait for all of it."""
        return min(self._size, LARGEST_PART)

    @property
    def sums(self) -> Columns:
        """The sums of every unit by name, `[units]` each."""
        sums = self._all()
        return {name: sums[:, number] for number, name in enumerate(self._names)}

    @property
    def sizes(self) -> Floats:
        """How many samples each unit holds, `[units]`."""
        sizes = np.full(len(self._sums), float(self._size))
        waiting = len(self._parts) * self._part + len(self._rows)
        return np.append(sizes, float(waiting)) if waiting else sizes

    def _all(self) -> Floats:
        last = _join(_filled(self._rows, self._part), self._part)
        parts = np.concatenate([self._parts, last[: 1 if len(self._rows) else 0]])
        if not len(parts):
            return self._sums
        size = self._size // self._part
        return np.concatenate([self._sums, _join(_filled(parts, size), size)])


def _filled(rows: Floats, size: int) -> Floats:
    """The rows, and zeros up to `size` of them."""
    filled = np.zeros((size, rows.shape[1]))
    filled[: len(rows)] = rows
    return filled


def _join(rows: Floats, size: int) -> Floats:
    """Sums of every `size` rows, a power of two, added up as a tree."""
    while size > 1:
        rows = rows[0::2] + rows[1::2]
        size //= 2
    return rows


def units_of(columns: Columns) -> Units:
    """The units of numbers that are all there at once, `[n]` by name."""
    units = Units(tuple(columns))
    units.add(columns)
    return units
