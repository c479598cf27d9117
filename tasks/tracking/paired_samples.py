"""Reads what the figures and the table of worst samples need from the shards, one array at a time."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import StageError
from validation.misfits import classes_last
from validation.outputs import OutputKind, OutputSpec
from validation.populations import MOST_COLUMNS
from validation.statistics import log_probabilities, log_softmax

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.tracking.interface import EngineRecord
    from validation.breakdowns import WorstSample

OF_CONFIDENCE = frozenset({OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LANGUAGE})
"""Kinds of which the top-1 confidence is drawn."""
MOST_KEPT = 200_000
"""Pairs kept of a column, 5 MB."""
_BLOCK = 1 << 18
_EVERY_HASH = np.uint64(2**64 - 1)


@dataclass
class PairSample:
    """Pairs of reference and candidate values: all of them up to `limit`, else a uniform part.

    Which pairs stay depends on their position alone (a hash of it, so that no period of the data can alias with it):
    the same data give the same sample, and every engine of a model is drawn with the same samples.
    """

    limit: int = MOST_KEPT
    seen: int = 0
    left_out: int = 0
    _below: np.uint64 = _EVERY_HASH
    _kept: NDArray[np.float64] = field(default_factory=lambda: np.empty((2, 0)))
    _hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    @property
    def reference(self) -> NDArray[np.float64]:
        """Values of the reference, `[kept]`."""
        return np.asarray(self._kept[0])

    @property
    def candidate(self) -> NDArray[np.float64]:
        """Values of the candidate, `[kept]`, in the order of `reference`."""
        return np.asarray(self._kept[1])

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Take in arrays of one shape; pairs that are not finite are counted in `left_out`."""
        r, c = reference.reshape(-1), candidate.reshape(-1)
        for start in range(0, r.size, _BLOCK):
            self._add_block(r[start : start + _BLOCK], c[start : start + _BLOCK])

    def _add_block(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        hashes = _mix(np.arange(self.seen, self.seen + reference.size, dtype=np.uint64))
        self.seen += reference.size
        finite = np.isfinite(reference) & np.isfinite(candidate)
        self.left_out += int(finite.size - finite.sum())
        chosen = finite & (hashes <= self._below)
        pairs = np.stack([reference[chosen], candidate[chosen]]).astype(np.float64)
        self._kept = np.concatenate([self._kept, pairs], axis=1)
        self._hashes = np.concatenate([self._hashes, hashes[chosen]])
        while self._hashes.size > self.limit:
            self._below = self._below // np.uint64(2)
            stay = self._hashes <= self._below
            self._kept, self._hashes = self._kept[:, stay], self._hashes[stay]


def _mix(positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection that scatters consecutive numbers."""
    mixed = positions * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


Key = tuple[str, int | None]
"""An output, and the column of a score that has several."""


def sample_pairs(
    record: EngineRecord, outputs: Mapping[str, OutputSpec], limit: int = MOST_KEPT
) -> dict[Key, PairSample]:
    """What to draw of each output: a score's columns, the top-1 confidence of classes, else the elements.

    Outputs that a shard lacks, or holds in another shape than the reference, are left out there: the comparison has
    noted that as a defect.
    """
    found: dict[Key, PairSample] = {}
    if record.candidate is None:
        return found
    for shard in sorted(record.reference.glob("*.npz")):
        for name, spec in outputs.items():
            reference = _load(shard, name)
            candidate = _load(record.candidate / shard.name, name)
            if reference is None or candidate is None or reference.shape != candidate.shape or reference.size == 0:
                continue
            for column, r, c in _drawn(name, spec, reference, candidate):
                found.setdefault(column, PairSample(limit)).add(r, c)
    return {key: sample for key, sample in found.items() if sample.reference.size > 0}


def _drawn(
    name: str, spec: OutputSpec, reference: NDArray[Any], candidate: NDArray[Any]
) -> Iterator[tuple[Key, NDArray[Any], NDArray[Any]]]:
    if spec.kind in OF_CONFIDENCE:
        logits = spec.kind is not OutputKind.PROBABILITIES
        r, c = (_confidence(classes_last(spec, side), logits=logits) for side in (reference, candidate))
        yield (name, None), r, c
        return
    r, c = reference.reshape(len(reference), -1), candidate.reshape(len(candidate), -1)
    if spec.kind is not OutputKind.SCORE or r.shape[1] > MOST_COLUMNS:
        yield (name, None), reference, candidate
        return
    columns: list[int | None] = list(range(r.shape[1])) if r.shape[1] > 1 else [None]
    for column in columns:
        yield (name, column), r[:, column or 0], c[:, column or 0]


def _confidence(values: NDArray[Any], *, logits: bool) -> NDArray[np.float64]:
    """Probability of the likeliest class, per row of the last axis; one class alone stands for one of two."""
    rows = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1).astype(np.float64)
    if rows.shape[1] == 1:
        rows = np.concatenate([np.zeros_like(rows) if logits else 1.0 - rows, rows], axis=1)
    return np.asarray(np.exp((log_softmax if logits else log_probabilities)(rows).max(axis=1)))


def annotate(worst: Sequence[WorstSample], annotations: Path) -> dict[int, dict[str, Any]]:
    """Label and slice values of the worst samples, by sample index; samples of all shards count on from 0."""
    found: dict[int, dict[str, Any]] = {sample.index: {} for sample in worst}
    start = 0
    for shard in sorted(annotations.glob("*.npz")):
        count = 0
        for name, values in _arrays(shard):
            count = len(values)
            for index in (index for index in found if start <= index < start + count):
                found[index][name] = values[index - start].tolist()
        start += count
    return found


def _arrays(shard: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with _opened(shard) as arrays:
        yield from arrays.items()


def _load(shard: Path, name: str) -> NDArray[Any] | None:
    if not shard.exists():
        return None
    with _opened(shard) as arrays:
        found: NDArray[Any] | None = arrays.get(name)
        return found


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    try:
        with np.load(shard, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StageError(
            f"{shard.name}: cannot be read for the figures: {error}; run the same command again, and if it stays so,"
            " check the disk"
        ) from error
