"""A reservoir of live requests, written as shards of validation data.

It lies beside the router in Triton: NumPy and the standard library alone. Of a period's samples it keeps those with the
smallest of random numbers, which is a uniform draw without replacement however many come (bottom-k sampling; Cohen and
Kaplan, PODC 2007) and stays one where fewer are to be kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Arrays = Mapping[str, np.ndarray[Any, Any]]

DAY_S = 86_400
HOUR_S = 3_600
MOST_VALUES = 60
"""Values of a parameter that are told apart; later ones are OTHER. A calibration set takes 64 in a stratum."""
OTHER, MISSING = "other", "missing"
LONGEST_VALUE = 64
PARTIAL = ".partial"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SHARD = re.compile(r"(?P<period>\d{2})00-(?P<instance>.+)-(?P<samples>\d+)-[0-9a-f]{16}\.npz")


@dataclass(frozen=True)
class Settings:
    """`serving.sampling` of model.yaml, and where this host keeps the shards. `tasks.sampling_spec` says what is what.

    `redacted` is what an input that must never be kept is filled with, by input.
    """

    folder: Path
    rate: float
    most_a_day: int
    every_hours: int
    retention_days: int
    seed: int
    by: str | None
    slices: tuple[str, ...]
    group: str | None
    redacted: Mapping[str, float]


@dataclass(frozen=True)
class _Sample:
    key: float
    arrays: dict[str, np.ndarray[Any, Any]]


class Values:
    """Values of request parameters, of which so many are told apart that no client can fill the memory."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def of(self, name: str, parameters: Mapping[str, Any]) -> str:
        """The value of a parameter: MISSING without one, and OTHER beyond MOST_VALUES."""
        value = str(parameters.get(name, MISSING))[:LONGEST_VALUE]
        seen = self._seen.setdefault(name, set())
        if value not in seen and len(seen) >= MOST_VALUES:
            return OTHER
        seen.add(value)
        return value


class Sampler:
    """The reservoir of one instance of a router. `offer` never waits for a disk: a thread writes."""

    def __init__(
        self, settings: Settings, instance: str, instances: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings, self._clock = settings, clock
        self._instance = re.sub(r"[^A-Za-z0-9_.]+", "_", instance)
        self._share = max(1, settings.most_a_day * settings.every_hours // 24 // instances)
        self._values = Values()
        self._failures = 0
        self._writer: threading.Thread | None = None
        self._begin(self._period())

    @classmethod
    def of_route(cls, fields: Mapping[str, Any], instance: str, instances: int) -> Sampler:
        """The sampler that `sampling` of `route.json` describes."""
        settings = Settings(
            folder=Path(fields["folder"]),
            rate=fields["rate"],
            most_a_day=fields["most_a_day"],
            every_hours=fields.get("every_hours", 24),
            retention_days=fields["retention_days"],
            seed=fields.get("seed", 0),
            by=fields.get("by"),
            slices=tuple(fields.get("slices", ())),
            group=fields.get("group"),
            redacted=dict(fields.get("redacted", {})),
        )
        return cls(settings, instance, instances)

    def offer(self, arrays: Arrays, parameters: Mapping[str, Any]) -> int:
        """Maybe keep some samples of a request.

        Args:
            arrays: its inputs, first axis the samples.
            parameters: of the request, headers that Triton forwards among them; only those that the settings name
                are looked at.

        Returns:
            How many samples the reservoir took.
        """
        period = self._period()
        if period != self._of:
            self._hand_over()
            self._begin(period)
        samples = len(next(iter(arrays.values())))
        keys = self._random.random(samples)
        rows = np.flatnonzero(keys < self._settings.rate)
        if not len(rows):
            return 0
        stratum = "" if self._settings.by is None else self._values.of(self._settings.by, parameters)
        if stratum not in self._kept and len(self._kept) >= self._capacity:
            return 0
        kept = self._kept.setdefault(stratum, [])
        capacity = self._capacity // len(self._kept)
        columns = self._columns(parameters)
        new = [
            _Sample(float(keys[row]), self._copy(arrays, int(row), columns))
            for row in rows
            if _enters(kept, keys[row], capacity)
        ]
        kept.extend(new)
        for one in self._kept.values():
            one.sort(key=lambda sample: sample.key)
            del one[capacity:]
        return len(new)

    def failures(self) -> int:
        """How many shards could not be written since this was asked."""
        found, self._failures = self._failures, 0
        return found

    def close(self) -> int:
        """Write what is left, wait for it, and return the failures."""
        self._hand_over()
        if self._writer is not None:
            self._writer.join()
        return self.failures()

    def _period(self) -> int:
        return int(self._clock()) // (HOUR_S * self._settings.every_hours)

    def _begin(self, period: int) -> None:
        """An empty reservoir, less what this instance wrote of the period before the server was started again."""
        own = int.from_bytes(self._instance.encode(), "big")
        self._random = np.random.default_rng([self._settings.seed, own, period])
        self._of, self._kept = period, dict[str, list[_Sample]]()
        self._capacity = max(0, self._share - sum(self._written(period)))

    def _written(self, period: int) -> Iterable[int]:
        day, hour = self._names(period)
        with contextlib.suppress(OSError):
            for path in (self._settings.folder / day).iterdir():
                found = _SHARD.fullmatch(path.name)
                if found and (found["period"], found["instance"]) == (hour, self._instance):
                    yield int(found["samples"])

    def _names(self, period: int) -> tuple[str, str]:
        moment = time.gmtime(period * HOUR_S * self._settings.every_hours)
        return time.strftime("%Y-%m-%d", moment), time.strftime("%H", moment)

    def _columns(self, parameters: Mapping[str, Any]) -> dict[str, str]:
        """Samples of one request are of one group: they are not independent of each other."""
        settings = self._settings
        names = dict.fromkeys([*settings.slices, *([settings.by] if settings.by else [])])
        group = None if settings.group is None else parameters.get(settings.group)
        columns = {f"slice.{name}": self._values.of(name, parameters) for name in names}
        return {**columns, "group": secrets.token_hex(8) if group is None else str(group)[:LONGEST_VALUE]}

    def _copy(self, arrays: Arrays, row: int, columns: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
        redacted = self._settings.redacted
        return {
            **{
                name: np.full_like(array[row], redacted[name]) if name in redacted else array[row].copy()
                for name, array in arrays.items()
            },
            **{name: np.array(value) for name, value in columns.items()},
        }

    def _hand_over(self) -> None:
        """Have a thread write the reservoir, and remove what is too old."""
        if self._writer is not None:
            self._writer.join()
        period, samples = self._of, [sample for kept in self._kept.values() for sample in kept]
        self._kept = {}
        self._writer = threading.Thread(target=self._write, args=(period, samples))
        self._writer.start()

    def _write(self, period: int, samples: list[_Sample]) -> None:
        day, hour = self._names(period)
        try:
            for alike in _of_one_shape(samples):
                write_shard(self._settings.folder / day, f"{hour}00-{self._instance}", alike)
            remove_old(self._settings.folder, self._settings.retention_days, self._clock())
        except OSError:
            self._failures += 1


def _enters(kept: list[_Sample], key: float, capacity: int) -> bool:
    return len(kept) < capacity or (capacity > 0 and key < kept[capacity - 1].key)


def _of_one_shape(samples: Iterable[_Sample]) -> Iterable[dict[str, np.ndarray[Any, Any]]]:
    """The samples stacked, in one shard for each shape."""
    groups: dict[object, list[_Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple((name, array.shape) for name, array in sample.arrays.items()), []).append(sample)
    for group in groups.values():
        yield {name: np.stack([sample.arrays[name] for sample in group]) for name in group[0].arrays}


def write_shard(folder: Path, prefix: str, arrays: Arrays) -> Path:
    """Write a shard under a name of its own, all of it or nothing; no file is ever written over.

    Raises:
        OSError: it cannot be written.
    """
    samples = len(next(iter(arrays.values())))
    name = f"{prefix}-{samples}-{secrets.token_hex(8)}.npz"
    return write_once(folder / name, lambda file: _write_npz(file, arrays))


def write_once(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Write a file by `fill`, all of it or nothing, and never over another; its folder is made for this user alone.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, it refuses a name that is taken
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write_npz(file: Any, arrays: Arrays) -> None:
    with ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def remove_old(folder: Path, retention_days: int, now: float) -> None:
    """Remove the days that are older, and files that a killed router left half-written a day ago or before."""
    oldest = time.strftime("%Y-%m-%d", time.gmtime(now - retention_days * DAY_S))
    for day in folder.iterdir() if folder.is_dir() else ():
        if _DAY.fullmatch(day.name) and day.name < oldest:
            shutil.rmtree(day, ignore_errors=True)
        elif _DAY.fullmatch(day.name):
            for partial in day.glob(f".*{PARTIAL}"):
                with contextlib.suppress(OSError):
                    if now - partial.stat().st_mtime > DAY_S:
                        partial.unlink()
