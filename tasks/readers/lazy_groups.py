"""Groups of samples, each of one shape, that need not lie in memory together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tasks.samples.npz import Arrays, load_arrays, save_shard, shard_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GROUP_BYTES = 32 << 20


class LazyGroups(Sequence[Arrays]):
    """Each group is made anew when it is asked for, and kept by the asker alone."""

    def __init__(self, makers: Sequence[Callable[[], Arrays]]) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, place: int) -> Arrays: ...
    @overload
    def __getitem__(self, place: slice) -> LazyGroups: ...
    def __getitem__(self, place: int | slice) -> Arrays | LazyGroups:
        return LazyGroups(self._makers[place]) if isinstance(place, slice) else self._makers[place]()


def map_groups(groups: Sequence[Arrays], change: Callable[[Arrays], Arrays]) -> LazyGroups:
    """Groups as `change` makes them, when they are asked for."""
    return LazyGroups([partial(_changed, groups, place, change) for place in range(len(groups))])


def _changed(groups: Sequence[Arrays], place: int, change: Callable[[Arrays], Arrays]) -> Arrays:
    return change(groups[place])


def select_rows(groups: Sequence[Arrays], rows: Sequence[Sequence[int]]) -> LazyGroups:
    """Some rows of each group, when they are asked for; a group of which there are none is left out."""
    chosen = [(place, part) for place, part in enumerate(rows) if len(part)]
    return LazyGroups([partial(_taken, groups, place, part) for place, part in chosen])


def _taken(groups: Sequence[Arrays], place: int, rows: Sequence[int]) -> Arrays:
    return {name: array[list(rows)] for name, array in groups[place].items()}


class Collector:
    """Collects samples one by one, and writes them to `folder` when they are many; without a folder, keeps them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._waiting: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
        self._bytes = 0
        self._written = 0

    def add(self, name: str, row: np.ndarray[Any, Any], beside: Mapping[str, Any]) -> None:
        """Take one sample of input `name`, without an axis of samples, and single values that go beside it."""
        self._waiting.setdefault(row.shape, []).append({name: row, **beside})
        self._bytes += row.nbytes
        if self._folder is not None and self._bytes > GROUP_BYTES:
            self._write(self._folder)

    def groups(self) -> Sequence[Arrays]:
        """All that was added, by shape as far as it was together."""
        if self._folder is None or not self._written:
            return tuple(_stacked(self._waiting[shape]) for shape in sorted(self._waiting))
        self._write(self._folder)
        return LazyGroups([partial(load_arrays, path) for path in shard_paths(self._folder)])

    def _write(self, folder: Path) -> None:
        for shape in sorted(self._waiting):
            save_shard(folder, self._written, _stacked(self._waiting[shape]))
            self._written += 1
        self._waiting, self._bytes = {}, 0


def _stacked(rows: Sequence[Mapping[str, Any]]) -> Arrays:
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


class GroupStore:
    """Keeps groups that come in parts, and writes them to `folder` once they are many; without a folder, keeps them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._parts: list[Arrays] = []
        self._kept: list[Arrays] = []
        self._written = 0

    def add(self, part: Arrays) -> None:
        """Take some rows of the group that is open, perhaps none."""
        if not len(next(iter(part.values()))):
            return
        self._parts.append(part)
        if self._folder is not None and _bytes_of(self._parts) > GROUP_BYTES:
            self.end_group()

    def end_group(self) -> None:
        """What comes next is of another group."""
        if self._parts:
            parts, self._parts = self._parts, []
            whole = parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
            self._kept.append(whole)
        if self._folder is not None and (self._written or _bytes_of(self._kept) > GROUP_BYTES):
            for group in self._kept:
                save_shard(self._folder, self._written, group)
                self._written += 1
            self._kept = []

    def groups(self) -> Sequence[Arrays]:
        """All groups, in order."""
        self.end_group()
        if self._folder is None or not self._written:
            return tuple(self._kept)
        return LazyGroups([partial(load_arrays, path) for path in shard_paths(self._folder)])


def _bytes_of(groups: Sequence[Arrays]) -> int:
    return sum(array.nbytes for group in groups for array in group.values())
