"""What a router saw of a rollout, as files that are written once: pairs of answers, and counts by arm.

It lies beside the router in Triton: NumPy and the standard library alone. `tasks/rollout/shards.py` reads the files.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tasks.serving import sampling
else:
    from . import sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    Arrays = Mapping[str, np.ndarray[Any, Any]]

PRODUCTION, CANARY = "production", "canary"
ARMS = (PRODUCTION, CANARY)
EDGES_MS = tuple(round(0.01 * 1.05**power, 6) for power in range(370))
"""10 µs to 11 minutes, 5 % apart: the same in every file, so that counts add up."""
# A reader takes objects of 16 MiB. A pair that fills a file alone is left out.
WRITTEN_BYTES, MOST_BYTES = 4 << 20, 12 << 20
MOST_USERS = 50_000
MOST_DOCUMENTS = 100
_ROW_BYTES = 200


@dataclass(frozen=True)
class Pair:
    """A request that two engines answered: `canary` are the second answers, which with `noise` are production's too.

    Every array has a row for each sample. Latencies are in ms; `failed` is empty, `error` or `timeout`.
    """

    key: str
    step: int
    noise: bool
    failed: str
    latency_ms: tuple[float, float]
    production: Arrays
    canary: Arrays
    slices: Mapping[str, str] = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)
    request: str = field(default_factory=lambda: secrets.token_hex(8))
    time: float = field(default_factory=time.time)

    @property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """By the names that they have in a file."""
        parts = {"production": self.production, "canary": self.canary, "input": self.inputs}
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, roughly."""
        return _ROW_BYTES * self.samples + sum(array.nbytes for array in self.arrays.values())

    @property
    def samples(self) -> int:
        """How many rows it has."""
        return len(next(iter(self.production.values())))


@dataclass
class _Arm:
    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    warm_up: int = 0
    nameless: int = 0
    users: set[str] = field(default_factory=set)
    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "timeouts": self.timeouts,
            "warm_up": self.warm_up,
            "users": len(self.users) + self.nameless,
            "latency_ms": {"edges": EDGES_MS, "counts": self.counts},
        }


@dataclass
class _Period:
    """What was counted of a step since the last files."""

    began: float
    arms: dict[str, _Arm] = field(default_factory=lambda: {name: _Arm() for name in ARMS})
    lost_pairs: int = 0


def arms_document(step: int, began: float, ended: float, arms: Mapping[str, Any], lost_pairs: int) -> bytes:
    """A file of counts, of the step that was followed; times are seconds since 1970, UTC."""
    fields = {"schema_version": 1, "step": step, "from": began, "to": ended, "arms": arms, "lost_pairs": lost_pairs}
    return json.dumps(fields).encode()


def empty_arms() -> dict[str, dict[str, Any]]:
    """Arms of which nothing was counted."""
    return {name: _Arm().document() for name in ARMS}


def write_arms(folder: Path, instance: str, moment: float, document: bytes) -> Path:
    """Write a file of counts under a name of its own.

    Raises:
        OSError: it cannot be written.
    """
    name = f"{prefix_of(instance, moment)}-arms-{secrets.token_hex(8)}.json"
    return sampling.write_once(folder / name, lambda file: file.write(document))


def prefix_of(instance: str, moment: float) -> str:
    """How the name of a file begins: `HHMMSS-INSTANCE`, UTC."""
    return f"{time.strftime('%H%M%S', time.gmtime(moment))}-{re.sub(r'[^A-Za-z0-9_.]+', '_', instance)}"


class Recorder:
    """Gathers what one instance of a router sees, and has a thread write it; a disk that fails stops no request."""

    def __init__(self, folder: Path, instance: str, shard_s: float, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._instance, self._shard_s, self._clock = folder, instance, shard_s, clock
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._periods: dict[int, _Period] = {}
        self._pairs: list[Pair] = []
        self._bytes, self._failures = 0, 0
        self._documents: list[bytes] = []
        self._writer = threading.Thread(target=self._run, daemon=True)
        self._writer.start()

    def count(self, arm: str, step: int, key: str, ms: float, failed: str = "") -> None:
        """A request of an arm: how long its call took, or whether it failed (`error`, `timeout`)."""
        with self._lock:
            found = self._period(step).arms[arm]
            found.requests += 1
            if not key or (key not in found.users and len(found.users) >= MOST_USERS):
                found.nameless += 1
            else:
                found.users.add(key)
            if failed:
                found.errors += failed == "error"
                found.timeouts += failed == "timeout"
            else:
                found.counts[bisect_right(EDGES_MS, ms)] += 1

    def count_warm_up(self, arm: str, step: int, requests: int = 1) -> None:
        """Requests of a warm-up, which are left out of everything else."""
        with self._lock:
            self._period(step).arms[arm].warm_up += requests

    def count_lost(self, step: int, pairs: int = 1) -> None:
        """Requests that were to be mirrored, and were not."""
        with self._lock:
            self._period(step).lost_pairs += pairs

    def add(self, pair: Pair) -> bool:
        """Keep a pair; False where there is no room, and it is counted as lost."""
        size = pair.size_bytes
        with self._lock:
            if self._closed or self._bytes + size > MOST_BYTES:
                self._period(pair.step).lost_pairs += 1
                return False
            self._pairs.append(pair)
            self._bytes += size
            if self._bytes > WRITTEN_BYTES:
                self._wake.set()
        return True

    def failures(self) -> int:
        """How many files could not be written since this was asked."""
        with self._lock:
            found, self._failures = self._failures, 0
        return found

    def close(self, *, wait: bool = True) -> None:
        """Write what is left; `wait` for it where the process ends, and not where a request would."""
        with self._lock:
            self._closed = True
        self._wake.set()
        if wait:
            self._writer.join()

    def _period(self, step: int) -> _Period:
        return self._periods.setdefault(step, _Period(self._clock()))

    def _run(self) -> None:
        while True:
            self._wake.wait(self._shard_s)
            with self._lock:
                closed = self._closed
                self._wake.clear()
            self._write()
            if closed:
                return

    def _write(self) -> None:
        with self._lock:
            pairs, self._pairs, self._bytes = self._pairs, [], 0
        lost: dict[int, set[str]] = {}
        now = self._clock()
        for alike in _of_one_shape(pairs):
            try:
                sampling.write_shard(self._folder, prefix_of(self._instance, now), columns_of(alike))
            except OSError:
                for pair in alike:
                    lost.setdefault(pair.step, set()).add(pair.request)
        with self._lock:
            for step, requests in lost.items():
                self._failures += 1
                self._period(step).lost_pairs += len(requests)
            periods, self._periods = self._periods, {}
        self._write_documents(periods, now)

    def _write_documents(self, periods: Mapping[int, _Period], now: float) -> None:
        for step, period in periods.items():
            arms = {name: arm.document() for name, arm in period.arms.items()}
            self._documents.append(arms_document(step, period.began, now, arms, period.lost_pairs))
        waiting, self._documents = self._documents[-MOST_DOCUMENTS:], []
        for document in waiting:
            try:
                write_arms(self._folder, self._instance, now, document)
            except OSError:  # counts are few, and what they say is said once: they wait for the disk
                self._documents.append(document)
                with self._lock:
                    self._failures += 1


def columns_of(pairs: list[Pair]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file: a row for each sample of pairs whose samples have one shape."""
    rows = [pair.samples for pair in pairs]

    def column(values: Iterable[Any], dtype: str) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.repeat(np.array(list(values), dtype), rows)
        return found

    return {
        "time": column((pair.time for pair in pairs), "f8"),
        "key": column((pair.key for pair in pairs), "U16"),
        "request": column((pair.request for pair in pairs), "U16"),
        "step": column((pair.step for pair in pairs), "i4"),
        "noise": column((pair.noise for pair in pairs), "?"),
        "failed": column((pair.failed for pair in pairs), "U7"),
        "latency.production": column((pair.latency_ms[0] for pair in pairs), "f4"),
        "latency.canary": column((pair.latency_ms[1] for pair in pairs), "f4"),
        **{f"slice.{name}": column((pair.slices[name] for pair in pairs), "U64") for name in pairs[0].slices},
        **{name: np.concatenate([pair.arrays[name] for pair in pairs]) for name in pairs[0].arrays},
    }


def _of_one_shape(pairs: Iterable[Pair]) -> Iterable[list[Pair]]:
    groups: dict[object, list[Pair]] = {}
    for pair in pairs:
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in pair.arrays.items())
        groups.setdefault((*shapes, *pair.slices), []).append(pair)
    return groups.values()
