"""Samples that are kept as they are, for what sums cannot tell: ranks, quantiles, distributions, neighbours.

All of them up to a limit; beyond, every second one, every fourth and so on, drawn by a hash of the sample's number.
So the choice is the same however the samples are cut into shards, and no period in the data can fall in step with it.

Of samples that belong to groups, one of each group is kept, drawn by the same hash: ranks and quantiles of rows that
hang together would be taken for more than they are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from validation.groups import Members

Numbers = NDArray[np.generic]
Hashes = NDArray[np.uint64]

MOST_KEPT = 1 << 20
"""Pairs of scores that are kept: some 20 MB a column. D of so many is known to 0.001."""


class KeptSamples:
    """Columns of samples by name, `[n]` or `[n, width]` each: all of them, or a random half, quarter, … of them."""

    def __init__(self, names: Sequence[str], limit: int = MOST_KEPT) -> None:
        self._names = tuple(names)
        self._limit = limit
        self._chunks: list[dict[str, Numbers]] = []
        self._shift = 0
        self._groups: _OneOfEach | None = None
        self.seen = self.held = 0

    def add(self, columns: dict[str, Numbers], members: Members | None = None) -> None:
        """Take in some samples. Columns that float32 holds exactly are kept as float32, other numbers as float64.

        `members` come with all of them or with none.
        """
        count = len(next(iter(columns.values())))  # may be 0
        if members is not None:
            self._groups = self._groups or _OneOfEach(self._names, self._limit)
            self._groups.add(columns, members.groups)
            self.seen += count
            return
        for start in range(0, count, self._limit):
            part = {name: values[start : start + self._limit] for name, values in columns.items()}
            self._add(part)

    def _add(self, columns: dict[str, Numbers]) -> None:
        chunk = {name: _compact(columns[name]) for name in self._names}
        count = len(chunk[self._names[0]])
        if self._shift:  # until then a sample's hash follows from its place
            chunk = _thinned(chunk | {"hash": sample_hashes(self.seen, count)}, self._shift)
        self.seen += count
        self._chunks.append(chunk)
        self.held += len(chunk[self._names[0]])
        while self.held > self._limit:
            whole = {name: self.column(name) for name in (*self._names, "hash")}
            self._shift += 1
            self._chunks = [_thinned(whole, self._shift)]
            self.held = len(self._chunks[0]["hash"])

    def column(self, name: str) -> Numbers:
        """What is kept of a column, in the order in which it came; `hash` is that of each kept sample's number."""
        if self._groups is not None:
            return self._groups.column(name)
        if name == "hash" and self._shift == 0:
            return sample_hashes(0, self.seen)
        if len(self._chunks) > 1:
            names = tuple(self._chunks[0])
            self._chunks = [{each: np.concatenate([chunk[each] for chunk in self._chunks]) for each in names}]
        return self._chunks[0][name] if self._chunks else np.zeros(0, dtype=np.float32)

    @property
    def note(self) -> str:
        """Says when what is kept is a part of the samples; empty where it is all of them."""
        if self._groups is not None:
            return self._groups.note
        return "" if self.held == self.seen else f"of {self.held:,} samples drawn at random"

    @property
    def first_half(self) -> NDArray[np.bool_]:
        """For each kept sample whether it is of the first of two random halves."""
        hashes = self.column("hash").astype(np.uint64)
        return np.asarray((hashes & np.uint64(1)) == 0)


class _OneOfEach:
    """One sample of each group, that with the least hash, of all groups or of a random half, quarter, … of them."""

    def __init__(self, names: Sequence[str], limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, Numbers] = {name: np.zeros(0, np.float32) for name in names}
        self._kept |= {"hash": np.zeros(0, np.uint64), "group": np.zeros(0, np.int64)}
        self._waiting: list[dict[str, Numbers]] = []
        self._held = self._seen = self._shift = 0

    def add(self, columns: dict[str, Numbers], groups: NDArray[np.int64]) -> None:
        for start in range(0, len(groups), self._limit):
            at = slice(start, start + self._limit)
            chunk = {name: _compact(columns[name][at]) for name in self._kept if name in columns}
            chunk |= {"hash": sample_hashes(self._seen, len(groups[at])), "group": groups[at]}
            self._waiting.append(self._of_drawn_groups(chunk))
            self._seen += len(groups[at])
            self._held += len(self._waiting[-1]["hash"])
            if self._held > 2 * self._limit:
                self._settle()

    def _settle(self) -> None:
        """Keep one sample of each group, and of half the groups where these are too many."""
        if self._waiting:
            parts = [self._kept, *self._waiting] if len(self._kept["hash"]) else self._waiting
            whole = {name: np.concatenate([part[name] for part in parts]) for name in self._kept}
            order = np.lexsort((whole["hash"], whole["group"]))
            groups = whole["group"][order]
            first = np.append(True, groups[1:] != groups[:-1])[: len(order)]
            chosen = np.sort(order[first])
            self._kept, self._waiting = {name: values[chosen] for name, values in whole.items()}, []
        while len(self._kept["hash"]) > self._limit:
            self._shift += 1
            self._kept = self._of_drawn_groups(self._kept)
        self._held = len(self._kept["hash"])

    def _of_drawn_groups(self, chunk: dict[str, Numbers]) -> dict[str, Numbers]:
        if self._shift == 0:
            return chunk
        stays = _mixed(chunk["group"].astype(np.uint64)) < np.uint64(1 << (64 - self._shift))
        return {name: values[stays] for name, values in chunk.items()}

    def column(self, name: str) -> Numbers:
        self._settle()
        return self._kept[name]

    @property
    def note(self) -> str:
        self._settle()
        some = f"{self._held:,} groups drawn at random" if self._shift else "each group"
        return "" if self._held == self._seen else f"of one sample of {some}"


def sample_hashes(first: int, count: int) -> Hashes:
    """A 64-bit hash of each number from `first` on."""
    return _mixed(np.arange(first, first + count, dtype=np.uint64))


def _mixed(numbers: Hashes) -> Hashes:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def _thinned(chunk: dict[str, Numbers], shift: int) -> dict[str, Numbers]:
    if shift == 0:
        return chunk
    stays = chunk["hash"].astype(np.uint64) < np.uint64(1 << (64 - shift))
    return {name: values[stays] for name, values in chunk.items()}


def _compact(values: Numbers) -> Numbers:
    return values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64)
