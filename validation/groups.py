"""Which samples belong together: a group is one independent sample, however many rows of the data it has.

Rows of one essay, speaker or page say the same thing again, and so does an exact repeat. Each group counts once: its
rows share a weight of 1, so that what is measured of a group is the mean over its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.generic]
Keys = NDArray[np.uint64]
GroupNumbers = NDArray[np.int64]

GROUP_KINDS = "Uiu"
"""Kinds of dtype that name groups: text and whole numbers."""
_KEY_BYTES = 8


@dataclass(frozen=True)
class Members:
    """The group of each row `[n]`, numbered from 0 as they come, and its weight `[n]`: 1 over the group's rows."""

    groups: GroupNumbers
    weights: NDArray[np.float64]

    def chosen(self, rows: Numbers) -> "Members":
        """Those of some of the rows, by a mask or by their places."""
        return Members(self.groups[rows], self.weights[rows])


@dataclass(frozen=True)
class Groups:
    """The group of each row, batch by batch, and how many rows each group has, `[groups]`.

    Groups are numbered from 0 in the order in which they come.
    """

    batches: tuple[GroupNumbers, ...]
    sizes: GroupNumbers

    @classmethod
    def by(cls, keys: Sequence[Keys]) -> "Groups":
        """The groups of rows with equal keys, whatever batch they lie in; keys `[n]` by batch.

        >>> found = Groups.by([np.array([7, 3], np.uint64), np.array([7], np.uint64)])
        >>> [batch.tolist() for batch in found.batches], found.sizes.tolist()
        ([[0, 1], [0]], [2, 1])
        """
        every = np.concatenate([np.zeros(0, np.uint64), *keys])
        _, first, place, sizes = np.unique(every, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = np.arange(len(order))
        ends = np.cumsum([len(batch) for batch in keys])[:-1]
        return cls(tuple(np.split(numbers[place], ends)), np.asarray(sizes[order], dtype=np.int64))

    @property
    def count(self) -> int:
        """How many independent samples there are."""
        return len(self.sizes)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.sizes.sum())


class Numbering:
    """Numbers groups, known by whole numbers from 0 on, anew in the order in which they come in a part of the rows."""

    def __init__(self) -> None:
        self._known: GroupNumbers = np.zeros(0, np.int64)  # sorted
        self._numbers: GroupNumbers = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        """How many groups there were."""
        return len(self._known)

    def number(self, groups: GroupNumbers) -> GroupNumbers:
        """The numbers of the groups of some rows, `[n]`."""
        values, first = np.unique(groups, return_index=True)
        places = np.searchsorted(self._known, values)
        known = np.append(self._known, -1)[places] == values
        new, places = values[~known], places[~known]
        numbers = np.empty(len(new), dtype=np.int64)
        numbers[np.argsort(first[~known])] = np.arange(self.count, self.count + len(new))
        self._known = np.insert(self._known, places, new)
        self._numbers = np.insert(self._numbers, places, numbers)
        return np.asarray(self._numbers[np.searchsorted(self._known, groups)])


def keys_of_values(values: Numbers) -> Keys:
    """A key for each value of a column `[n]` of text or whole numbers; 3 and "3" are one value."""
    texts, place = np.unique(values.astype(np.str_), return_inverse=True)
    return np.array([_key(text.encode()) for text in texts.tolist()], dtype=np.uint64)[place]


def keys_of_rows(columns: Mapping[str, Numbers], count: int) -> Keys:
    """A key for each of `count` rows by all that the columns hold of it, `[n, ...]` each, whatever shard it lies in."""
    hashers = [blake2b(digest_size=_KEY_BYTES) for _ in range(count)]
    for name, values in sorted(columns.items()):
        head = f"{name}\0{values.dtype.str}{values.shape[1:]}\0".encode()
        flat = np.ascontiguousarray(values)
        for row, hasher in enumerate(hashers):
            hasher.update(head)
            hasher.update(flat[row].tobytes())
    return np.array([int.from_bytes(hasher.digest(), "little") for hasher in hashers], dtype=np.uint64)


def _key(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=_KEY_BYTES).digest(), "little")
