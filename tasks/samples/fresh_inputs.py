"""Inputs that are in no file, made of samples so that they stay possible.

Whatever knows the samples by heart, a table or a branch that was taken while the module was traced, fails on them. They
keep what a model may rest on: each input lies in the range that was seen, whole numbers stay whole, masks are those of
real samples, and padding comes last along a dimension that is padded in the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.samples.possible import (
    Follows,
    find_followers,
    fit_values,
    follows_an_extent,
    loses_a_mask,
    value_bounds,
)
from tasks.samples.shapes import SEED, Extents, check_shapes, shape_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.declared import InputSpec
    from tasks.samples.data_spec import DataSpec

    Array = np.ndarray[Any, Any]

ROWS_A_DRAW, FEWEST_ROWS = 32, 4
"""So many fresh samples are made in each way, over all shapes together; and at one shape at least."""
MOST_BYTES = 16 << 20
"""What the samples of one shape and way take at most, one sample excepted."""
ROWS_A_SHARD = 8
NOISE = 0.01
"""Standard deviation of what floats are perturbed by, as a share of their range."""
SWAPPED = 0.15
"""Share of whole numbers that are swapped for those of another sample."""


class Draw(str, Enum):
    """How fresh inputs are made; the words stand in sentences."""

    DRAWN = "drawn at random from the ranges seen"
    PERTURBED = "perturbed from validation samples"
    MIXED = "mixed from two validation samples each"


@dataclass
class _Seen:
    """What is known of the samples: some of them without padding, and of all that were read the ranges.

    `low` and `high` have one extent for each axis after the first: that of a fixed axis, 1 for a named dimension.
    `least` is the smallest length of each dimension that is padded, `follows` says which inputs are bounded by one.
    """

    rows: list[Arrays] = field(default_factory=list)
    low: Arrays = field(default_factory=dict)
    high: Arrays = field(default_factory=dict)
    is_whole: dict[str, bool] = field(default_factory=dict)
    is_mask: dict[str, bool] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    follows: dict[str, Follows] = field(default_factory=dict)


@dataclass(frozen=True)
class FreshShard:
    """Fresh inputs of one shape, how they were made, and the shape's name."""

    draw: Draw
    shape: str
    inputs: Arrays

    @property
    def label(self) -> str:
        """`drawn at random from the ranges seen, at sequence=128`."""
        return f"{self.draw.value}, at {self.shape}"


def fresh_shards(folder: Path, spec: DataSpec) -> Iterator[FreshShard]:
    """Fresh inputs made of the shards in `folder`, in each way at each of the check's shapes; the same every time.

    Memory holds one shard of the data and a few of its samples.
    """
    generator = np.random.default_rng(SEED)
    seen = _look(folder, spec, generator)
    shapes = _shapes(spec)
    for extents in shapes:
        rows = _rows_at(extents, spec.inputs, len(shapes))
        for draw in Draw:
            made = [_make(draw, seen, spec.inputs, extents, generator, full=not row) for row in range(rows)]
            inputs = {name: np.stack([each[name] for each in made]) for name in spec.inputs}
            for name, tensor in spec.inputs.items():
                if tensor.is_shared:
                    inputs[name][:] = inputs[name][:1]
            yield FreshShard(draw, shape_label(extents), inputs)


def _shapes(spec: DataSpec) -> list[Extents]:
    found: list[Extents] = []
    for shape in check_shapes(spec.dims):
        extents = {name: extent for name, extent in shape.items() if name != spec.batch_dim}
        if extents not in found:
            found.append(extents)
    return found


def _rows_at(extents: Extents, inputs: Mapping[str, InputSpec], shapes: int) -> int:
    sizes = [
        np.dtype(spec.dtype).itemsize
        * prod(extents[axis] if isinstance(axis, str) else axis for axis in spec.shape[1:])
        for spec in inputs.values()
    ]
    wanted = max(FEWEST_ROWS, -(-ROWS_A_DRAW // shapes))
    return max(1, min(wanted, MOST_BYTES // max(1, sum(sizes))))


def _look(folder: Path, spec: DataSpec, generator: np.random.Generator) -> _Seen:
    dims = [name for name in spec.dims if name != spec.batch_dim]
    seen = _Seen(follows=find_followers((load_arrays(path) for path in shard_paths(folder)), spec.inputs, dims))
    for path in shard_paths(folder):
        arrays = load_arrays(path)
        for name, tensor in spec.inputs.items():
            _note(seen, name, tensor, arrays[name])
        samples = len(next(iter(arrays.values())))
        lengths = _lengths(arrays, spec)
        for dim, along in lengths.items():
            if (along < _extent(arrays, spec.inputs, dim)).any():
                seen.least[dim] = min(seen.least.get(dim, int(along.min())), int(along.min()))
        for row in generator.permutation(samples)[:ROWS_A_SHARD].tolist():
            seen.rows.append({name: _cut(arrays[name][row], spec.inputs[name], lengths, row) for name in spec.inputs})
    if all(seen.is_mask.values()):  # then there is nothing else that could be fresh
        seen.is_mask = dict.fromkeys(seen.is_mask, False)
    return seen


def _note(seen: _Seen, name: str, spec: InputSpec, array: Array) -> None:
    axes = (0, *(axis for axis, extent in enumerate(spec.shape) if axis and isinstance(extent, str)))
    low, high = (bound(array, axis=axes, keepdims=True)[0] for bound in (np.min, np.max))
    seen.low[name] = np.minimum(seen.low.get(name, low), low)
    seen.high[name] = np.maximum(seen.high.get(name, high), high)
    whole = array.dtype.kind in "iub" or bool((array == np.rint(array)).all())
    seen.is_whole[name] = seen.is_whole.get(name, True) and whole
    mask = array.ndim > 1 and whole and float(low.min()) >= 0 and float(high.max()) <= 1
    seen.is_mask[name] = seen.is_mask.get(name, True) and mask


def _extent(arrays: Arrays, inputs: Mapping[str, InputSpec], dim: str) -> int:
    return int(next(arrays[name].shape[spec.shape.index(dim)] for name, spec in inputs.items() if dim in spec.shape))


def _lengths(arrays: Arrays, spec: DataSpec) -> dict[str, Array]:
    """By dimension: how long each sample is up to where every input that has the dimension holds nothing but pad."""
    dims = [name for name in spec.dims if name != spec.batch_dim]
    return {dim: np.maximum(1, _reached(arrays, spec.inputs, dim)) for dim in dims}


def _reached(arrays: Arrays, inputs: Mapping[str, InputSpec], dim: str) -> Array:
    used: Array = np.zeros((1, 1), bool)
    for name, spec in inputs.items():
        for axis, extent in enumerate(spec.shape):
            if extent == dim:
                others = tuple(a for a in range(1, arrays[name].ndim) if a != axis)
                used = used | (arrays[name] != np.asarray(spec.pad).astype(arrays[name].dtype)).any(axis=others)
    return np.asarray(np.where(used.any(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1), 0))


def _cut(sample: Array, spec: InputSpec, lengths: Mapping[str, Array], row: int) -> Array:
    cuts = (slice(int(lengths[axis][row])) if isinstance(axis, str) else slice(None) for axis in spec.shape[1:])
    return np.array(sample[tuple(cuts)], order="C")  # ascontiguousarray gives a single number an axis


def _make(
    draw: Draw,
    seen: _Seen,
    inputs: Mapping[str, InputSpec],
    extents: Extents,
    generator: np.random.Generator,
    *,
    full: bool,
) -> Arrays:
    """One fresh sample, without the axis of the samples; where dimensions are padded, `full` has no padding."""
    wanted = {
        dim: int(generator.integers(min(seen.least[dim], extent), extent, endpoint=True))
        if dim in seen.least and not full
        else extent
        for dim, extent in extents.items()
    }
    first, second = (seen.rows[index] for index in generator.permutation(max(2, len(seen.rows)))[:2] % len(seen.rows))
    share = generator.uniform(0.25, 0.75)
    lost = _lost(first, seen, inputs, wanted)
    made = {}
    for name, spec in inputs.items():
        own, other = _tile(first[name], spec, wanted, lost), _tile(second[name], spec, wanted)
        if not seen.is_mask[name]:
            own = _change(draw, own, other, seen, name, share, generator)
            own = fit_values(own, spec, seen.follows.get(name), wanted)
        if full and follows_an_extent(spec):
            own = np.full_like(own, value_bounds(spec, wanted)[1])
        margins = [(0, extents[axis] - wanted[axis]) if isinstance(axis, str) else (0, 0) for axis in spec.shape[1:]]
        own = np.asarray(own, dtype=spec.dtype)
        made[name] = np.pad(own, margins, constant_values=spec.pad) if margins else own
    return made


def _lost(sample: Arrays, seen: _Seen, inputs: Mapping[str, InputSpec], wanted: Extents) -> Extents:
    """What dimensions lose at their beginning: where a mask begins with padding, its end must stay."""
    masks = [name for name in inputs if seen.is_mask[name]]
    if not any(loses_a_mask(sample[name][None], _tile(sample[name], inputs[name], wanted)[None]) for name in masks):
        return {}
    return {
        axis: max(0, extent - wanted[axis])
        for name, spec in inputs.items()
        for axis, extent in zip(spec.shape[1:], sample[name].shape, strict=True)
        if isinstance(axis, str)
    }


def _tile(sample: Array, spec: InputSpec, wanted: Extents, lost: Extents | None = None) -> Array:
    """A sample without padding, cut (at its end, but for what it lost at its beginning) or repeated to the lengths."""
    for axis, dim in enumerate(spec.shape[1:]):
        if isinstance(dim, str):
            start = (lost or {}).get(dim, 0)
            sample = np.take(sample, (start + np.arange(wanted[dim])) % sample.shape[axis], axis=axis)
    return sample


def _change(
    draw: Draw, own: Array, other: Array, seen: _Seen, name: str, share: float, generator: np.random.Generator
) -> Array:
    low, high = (bound[name].astype(np.float64) for bound in (seen.low, seen.high))
    if draw is Draw.DRAWN:
        if seen.is_whole[name]:
            return np.floor(generator.uniform(low, high + 1, own.shape)).clip(low, high)
        return generator.uniform(low, high, own.shape)
    if draw is Draw.MIXED:
        return _mix(own, other, share)
    if seen.is_whole[name]:
        return np.where(generator.random(own.shape) < SWAPPED, other, own)
    noise = NOISE * (high - low) * generator.standard_normal(own.shape)
    return np.asarray(np.clip(own + noise, low, high))


def _mix(own: Array, other: Array, share: float) -> Array:
    """The first part of one sample and the rest of another, along the first axis that can be parted."""
    axis = next((axis for axis, extent in enumerate(own.shape) if extent > 1), None)
    if axis is None:
        return own
    place = min(own.shape[axis] - 1, max(1, round(share * own.shape[axis])))
    first, _ = np.split(own, [place], axis=axis)
    _, second = np.split(other, [place], axis=axis)
    return np.concatenate([first, second], axis=axis)
