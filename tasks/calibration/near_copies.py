"""Finds samples of a calibration set that are validation samples but for a little noise, whose digests differ.

Whole numbers must be equal; floats may be off by a little of their range. Each sample is written as a few numbers, its
products with random signs along every axis, whose distance is that of the samples (Johnson and Lindenstrauss 1984), so
that memory holds these alone, and a k-d tree finds neighbours. Noise in the padding changes them as little as
elsewhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from tasks.calibration.features import sample_digests
from tasks.samples.npz import FIRST_INDICES, Arrays, load_arrays, shard_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.declared import InputSpec

    Array = np.ndarray[Any, Any]
    Floats = NDArray[np.float64]

NEAR = 1e-3
"""Root mean square of the differences, as a share of the range of each channel, below which a sample is a copy."""
CHANCE = 1e-3
"""Where samples are a few numbers each, some come near by chance: in this share of checks, were they uniform."""
SPACING = 0.01
"""A copy is nearer than this share of how near validation samples are to each other, in the median."""
DIRECTIONS = 16
_ASKED = 1000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class NearCopies:
    """Samples of the set that are near one of the validation data, and samples of that which are near one of the set.

    `within` is how near, as a share of the range.
    """

    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    within: float


def find_near_copies(ours: Path, theirs: Path, inputs: Mapping[str, InputSpec], batch_dim: str) -> NearCopies:
    """Compare the samples of two folders of shards, the set's and the validation data's."""
    if not any(_is_float(spec) for spec in inputs.values()):
        return NearCopies((), (), 0.0)  # equal digests say it all
    ranges = _ranges(theirs, inputs)
    mine, other = (_sketch(folder, inputs, batch_dim, ranges) for folder in (ours, theirs))
    own, held_out = _joined(mine, other)
    tree = cKDTree(held_out)
    within = _within(own, held_out, min(mine.fewest, other.fewest))
    near = np.isfinite(tree.query(own, distance_upper_bound=within)[0])
    back = np.isfinite(cKDTree(own).query(held_out, distance_upper_bound=within)[0])
    return NearCopies(tuple(np.flatnonzero(near).tolist()), tuple(np.flatnonzero(back).tolist()), within)


def shared_in_words(ours: Path, theirs: Path, inputs: Mapping[str, InputSpec], batch_dim: str) -> str:
    """What a set shares with the validation data, in two folders of shards: nothing, or why it cannot be used."""
    held_out = set(_digests(theirs, inputs, batch_dim))
    own = _digests(ours, inputs, batch_dim)
    shared = [number for number, digest in enumerate(own) if digest in held_out]
    if shared:
        first = ", ".join(map(str, shared[:FIRST_INDICES]))
        return (
            f"calibration.set: {len(shared)} of its {len(own)} samples (first: {first}, in the order of its files) are"
            " in the validation data too; what an engine is tuned on cannot judge it: take other samples"
        )
    near = find_near_copies(ours, theirs, inputs, batch_dim)
    if near.ours:
        first = ", ".join(map(str, near.ours[:FIRST_INDICES]))
        return (
            f"calibration.set: {len(near.ours)} of its {len(own)} samples (first: {first}, in the order of its files)"
            f" are near copies of {len(near.theirs)} samples of the validation data: their values differ by less than"
            f" {near.within:.2g} of the range; what an engine is tuned on cannot judge it: take other samples"
        )
    return ""


def _digests(folder: Path, inputs: Mapping[str, InputSpec], batch_dim: str) -> list[str]:
    found = (sample_digests(load_arrays(path), inputs, batch_dim) for path in shard_paths(folder))
    return [digest for shard in found for digest in shard]


def _is_float(spec: InputSpec) -> bool:
    return spec.dtype.startswith("float")


def _ranges(folder: Path, inputs: Mapping[str, InputSpec]) -> dict[str, Floats]:
    """By float input the range of each channel, of every position of its fixed axes, in its own unit."""
    low: dict[str, Floats] = {}
    high: dict[str, Floats] = {}
    for path in shard_paths(folder):
        arrays = load_arrays(path)
        for name, spec in inputs.items():
            if _is_float(spec):
                axes = (0, *(axis for axis, extent in enumerate(spec.shape) if axis and isinstance(extent, str)))
                least, most = (find(arrays[name], axis=axes, keepdims=True) for find in (np.min, np.max))
                low[name] = np.minimum(low.get(name, least), least)
                high[name] = np.maximum(high.get(name, most), most)
    return {name: high[name].astype(np.float64) - low[name] for name in low}


@dataclass
class _Sketch:
    """Of the samples of one side: products with random signs [n, k], and digests of their whole numbers.

    `fewest` and `most` are how many numbers that vary a sample has.
    """

    rows: list[Floats] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    fewest: int = 1 << 62
    most: int = 1


def _sketch(folder: Path, inputs: Mapping[str, InputSpec], batch_dim: str, ranges: Mapping[str, Floats]) -> _Sketch:
    found = _Sketch()
    exact = {name: spec for name, spec in inputs.items() if not _is_float(spec)}
    for path in shard_paths(folder):
        arrays = load_arrays(path)
        samples = len(next(iter(arrays.values())))
        found.rows.append(sum((_products(arrays, name, inputs[name], ranges[name]) for name in ranges), np.zeros(1)))
        found.whole += sample_digests(arrays, exact, batch_dim) if exact else [""] * samples
        values = sum(_varying(arrays[name].shape[1:], ranges[name]) for name in ranges)
        found.fewest, found.most = min(found.fewest, values), max(found.most, values)
    return found


def _varying(shape: tuple[int, ...], ranges: Floats) -> int:
    return int(np.count_nonzero(ranges)) * prod(e for e, own in zip(shape, ranges.shape[1:], strict=True) if own == 1)


def _products(arrays: Arrays, name: str, spec: InputSpec, ranges: Floats) -> Floats:
    """[n, DIRECTIONS]: sums over all values, each over its channel's range and with a sign for every axis."""
    array = arrays[name]
    scale = np.divide(1.0, ranges, out=np.zeros_like(ranges), where=ranges > 0)
    signs = [_signs(f"{name} {axis}", extent) for axis, extent in enumerate(array.shape) if axis]
    step = max(1, _BLOCK // max(1, array[:1].size))
    blocks = []
    for start in range(0, len(array), step):
        block = (array[start : start + step].astype(np.float64) - float(spec.pad)) * scale
        part = np.repeat(block[..., None], DIRECTIONS, axis=-1) if not signs else block @ signs[-1]
        for along in reversed(signs[:-1]):
            part = (part * along).sum(axis=-2)
        blocks.append(part)
    return np.concatenate(blocks)


def _signs(place: str, extent: int) -> Floats:
    """[extent, DIRECTIONS] of -1 and 1; those of a shorter extent are the first of a longer one's."""
    generator = np.random.default_rng(zlib.crc32(place.encode()))
    return np.where(generator.random((extent, DIRECTIONS)) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - as often as not


def _joined(mine: _Sketch, other: _Sketch) -> tuple[Floats, Floats]:
    """Points whose distance is the root mean square difference; those of other whole numbers are 1 apart at least."""
    _, codes = np.unique(np.array([*mine.whole, *other.whole]), return_inverse=True)
    scale = np.sqrt(DIRECTIONS * max(mine.most, other.most))
    rows = np.concatenate([*mine.rows, *other.rows]) / scale
    points = np.concatenate([rows, codes.reshape(-1, 1).astype(np.float64)], axis=1)
    return points[: len(mine.whole)], points[len(mine.whole) :]


def _within(own: Floats, held_out: Floats, values: int) -> float:
    """How near a copy is: nearer than chance brings two samples, and than validation samples are to each other."""
    by_chance = 0.5 * (CHANCE / (len(own) * len(held_out))) ** (1 / max(1, values))
    distinct = np.unique(held_out, axis=0)
    if len(distinct) == 1:
        return float(min(NEAR, by_chance))
    asked = distinct[np.random.default_rng(0).permutation(len(distinct))[:_ASKED]]
    spacing = float(np.median(cKDTree(distinct).query(asked, k=2)[0][:, 1]))
    return float(min(NEAR, by_chance, SPACING * spacing))
