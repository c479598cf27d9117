"""Sums over units of samples that stream by: what a bootstrap of a million samples needs, in bounded memory.

A unit is one sample until there are more than `2 * MOST_UNITS`; then neighbours are joined two by two, again and again.
Sums are added up in one fixed order, so that the same samples give the same bytes, cut into shards anywhere.

Where samples belong to groups, a group is what one sample is elsewhere: it has size 1, and its numbers are the means
over its rows. So whatever is made of units knows independent samples only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from validation.groups import Members

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
"""Numbers by name, an array each; all of one shape."""

MOST_UNITS = 2048
"""Units are joined when there are twice as many. With so many, the spread between units is known to 1 or 2 %."""
LARGEST_PART = 1024
"""Samples whose numbers are held until they are added up."""
_ROUNDING = 1e-6


class Units:
    """Running sums of `names` over units of equally many samples, in the order in which the samples came."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums: Floats = np.zeros((0, len(self._names)))
        self._rows: Floats = np.zeros((0, len(self._names)))  # samples that fill no part of a unit yet
        self._parts: Floats = np.zeros((0, len(self._names)))  # parts that fill no unit yet
        self._size = 1
        self._samples = 0
        self._groups: _GroupSums | None = None

    def add(self, columns: Columns, members: Members | None = None) -> None:
        """Take in the numbers of some samples, `[n]` by name; `members` come with all of them or with none."""
        count = len(next(iter(columns.values())))
        if members is not None and self._groups is None:
            self._groups = _GroupSums(len(self._names))
        for start in range(0, count, MOST_UNITS):
            at = slice(start, start + MOST_UNITS)
            rows = np.stack([np.asarray(columns[name][at], dtype=np.float64) for name in self._names], axis=1)
            if self._groups is None or members is None:
                self._add(rows)
            else:
                self._groups.add(rows, members.groups[at], members.weights[at])
        self._samples += count

    @property
    def samples(self) -> int:
        """How many independent samples there were."""
        return self._samples if self._groups is None else self._groups.count

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
        sums = self._all() if self._groups is None else self._groups.sums
        return {name: sums[:, number] for number, name in enumerate(self._names)}

    @property
    def sizes(self) -> Floats:
        """How many samples each unit holds, `[units]`."""
        if self._groups is not None:
            return self._groups.sizes
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


class _GroupSums:
    """Sums over groups, whose rows come in any order; groups whose numbers are neighbours are joined.

    Rows are added one after the other, and what is joined depends on the numbers of the groups alone.
    """

    def __init__(self, width: int) -> None:
        self._both: Floats = np.zeros((0, width + 1))  # the last column is the weights
        self._seen: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._size = 1  # groups a unit

    def add(self, rows: Floats, groups: NDArray[np.int64], weights: Floats) -> None:
        """Take in rows `[n, width]`, the number of each one's group, and its weight in it."""
        while len(rows):
            beyond = np.flatnonzero(groups >= 2 * MOST_UNITS * self._size)
            fits = int(beyond[0]) if beyond.size else len(rows)
            self._take(rows[:fits], groups[:fits], weights[:fits])
            rows, groups, weights = rows[fits:], groups[fits:], weights[fits:]
            if beyond.size:
                self._both = _join(_filled(self._both, len(self._both) + len(self._both) % 2), 2)
                self._size *= 2

    def _take(self, rows: Floats, groups: NDArray[np.int64], weights: Floats) -> None:
        if not len(rows):
            return
        units, most = groups // self._size, int(groups.max()) + 1
        self._both = _filled(self._both, max(len(self._both), -(-most // self._size)))
        self._seen = np.append(self._seen, np.zeros(max(0, most - len(self._seen)), dtype=bool))
        self._seen[groups] = True
        for column, values in enumerate([*(rows * weights[:, None]).T, weights]):
            np.add.at(self._both[:, column], units, values)

    @property
    def count(self) -> int:
        """How many groups there were."""
        return int(self._seen.sum())

    @property
    def sums(self) -> Floats:
        """Sums of the groups' means, `[units, width]`."""
        there = self._both[self._both[:, -1] > 0]
        return np.asarray(there[:, :-1] * self._scale)

    @property
    def sizes(self) -> Floats:
        """How many groups each unit holds, `[units]`; fractions where other rows of a group are elsewhere."""
        sizes = self._both[self._both[:, -1] > 0, -1] * self._scale
        whole = np.rint(sizes)
        return np.asarray(np.where(np.abs(sizes - whole) < _ROUNDING, whole, sizes))

    @property
    def _scale(self) -> float:
        """Makes a group 1 on average, where a part of each one's rows is here: in one value of a slice."""
        total = float(self._both[:, -1].sum())
        return self.count / total if total and abs(total - self.count) > _ROUNDING else 1.0


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
