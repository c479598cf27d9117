"""Numbers for each sample of a calibration set or of the traffic, read from the arrays of one shard.

A shard is padded to the extent of its longest sample, so the same sample may lie in two data sets with other padding.
All that is read here is read without it: padding is what comes last along a named dimension, at positions where every
input that has the dimension holds its `InputSpec.pad`.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.drift import TokenCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from tasks.declared import InputSpec
    from tasks.samples.npz import Arrays

    Array = np.ndarray[Any, Any]
    Lengths = dict[str, NDArray[np.int64]]

MOST_CHANNELS = 128
"""Channels of an input that get features of their own; neighbours are taken together where there are more."""
_MOST_MASK_VALUES = 2
_BLOCK = 1 << 20
"""Values taken in float64 at once: 8 MiB."""


def find_masks(shards: Iterable[Arrays], inputs: Mapping[str, InputSpec]) -> frozenset[str]:
    """Inputs that only say where data is: bool; two axes or more and 0 or 1 throughout; whole numbers of two values.

    Asked once, over the shards of both data sets, so that both have the same features. It stops reading when no input
    is left that may be a mask.
    """
    seen: dict[str, set[Any]] = {name: set() for name in inputs}
    open_names = {name for name, spec in inputs.items() if spec.dtype != "bool"}
    for shard in shards:
        for name in sorted(open_names):
            seen[name].update(_few_values(shard[name]))
            if not _may_be_mask(shard[name], seen[name]):
                open_names.discard(name)
        if not open_names:
            break
    return frozenset(
        name for name, spec in inputs.items() if spec.dtype == "bool" or (name in open_names and seen[name])
    )


def _few_values(array: Array) -> list[Any]:
    """Distinct values, or the first three of more: without sorting them all."""
    found: list[Any] = []
    rest = array.reshape(-1)
    while rest.size and len(found) <= _MOST_MASK_VALUES:
        found.append(rest[0].item())
        rest = rest[rest != rest[0]]
    return found


def _may_be_mask(array: Array, values: set[Any]) -> bool:
    if array.dtype.kind in "iu" and len(values) <= _MOST_MASK_VALUES:
        return True
    return array.ndim > 1 and values <= {0, 1}


def unpadded_lengths(arrays: Arrays, inputs: Mapping[str, InputSpec], batch_dim: str) -> Lengths:
    """By named dimension besides the batch: [n] int64, each sample's extent without padding, in positions."""
    names = {axis: None for spec in inputs.values() for axis in spec.shape if isinstance(axis, str)}
    return {name: _lengths_along(name, arrays, inputs) for name in names if name != batch_dim}


def _lengths_along(dimension: str, arrays: Arrays, inputs: Mapping[str, InputSpec]) -> NDArray[np.int64]:
    having = [name for name, spec in inputs.items() if dimension in spec.shape]
    padded: NDArray[np.bool_] | None = None
    for name in sorted(having, key=lambda name: arrays[name].size):
        # The smallest, most often a mask, leaves little to look for in the others.
        if padded is not None and not padded[:, -1:].any():
            break
        here = _padded_positions(arrays[name], inputs[name], dimension)
        padded = here if padded is None else padded & here
    assert padded is not None  # noqa: S101 - the dimension was found in an input
    extent = padded.shape[1]
    trailing = np.where(padded.all(axis=1), extent, (~padded[:, ::-1]).argmax(axis=1))
    return np.asarray(extent - trailing, dtype=np.int64)


def _padded_positions(array: Array, spec: InputSpec, dimension: str) -> NDArray[np.bool_]:
    """[n, extent]: positions along the dimension that hold the pad and nothing else."""
    equal = array == np.asarray(spec.pad).astype(array.dtype)
    axes = [axis for axis, name in enumerate(spec.shape) if name == dimension]
    each = [equal.all(axis=tuple(a for a in range(1, array.ndim) if a != axis)) for axis in axes]
    return np.asarray(np.logical_and.reduce(each))


def feature_names(inputs: Mapping[str, InputSpec], batch_dim: str, masks: frozenset[str]) -> tuple[str, ...]:
    """Names of the columns of `sample_features`, as `length of frames`, `mel[12] mean` or `mel[12] deviation`.

    Neighbouring channels that are taken together are a slice, `vector[6:12] mean`; an input without channels has no
    brackets.
    """
    dims = {axis: None for spec in inputs.values() for axis in spec.shape[1:] if isinstance(axis, str)}
    names = [f"length of {dim}" for dim in dims if dim != batch_dim]
    for name, spec in _measured(inputs, masks):
        channels = _channel_names(name, spec)
        if _is_single(spec):
            names += channels
        else:
            names += [f"{channel} {what}" for what in ("mean", "deviation") for channel in channels]
    return tuple(names)


def sample_features(
    arrays: Arrays, inputs: Mapping[str, InputSpec], batch_dim: str, masks: frozenset[str]
) -> NDArray[np.float32]:
    """Features [n, f] of the samples of a shard, in the order of `feature_names`.

    The length of every named dimension, in positions; of every float input that is no mask, the mean and the standard
    deviation (over values, not n - 1) of each channel over the unpadded rest, in the input's own unit. The channel
    axis is the first one after the batch with a fixed extent, such as axis 1 of NCHW images and axis 2 of mel
    [batch, frames, 80]; an input without one is one channel. Where a channel has one value only, as in [batch, 64],
    the value is the feature. A sample that is padding from end to end has its pad as mean. Sums are in float64.
    """
    lengths = unpadded_lengths(arrays, inputs, batch_dim)
    samples = len(next(iter(arrays.values())))
    columns: list[Array] = [along[:, None] for along in lengths.values()]
    for name, spec in _measured(inputs, masks):
        means, deviations = _channel_statistics(arrays[name], spec, lengths)
        columns += [means] if _is_single(spec) else [means, deviations]
    columns.append(np.zeros((samples, 0)))
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def _measured(inputs: Mapping[str, InputSpec], masks: frozenset[str]) -> Iterator[tuple[str, InputSpec]]:
    return ((name, spec) for name, spec in inputs.items() if spec.dtype.startswith("float") and name not in masks)


def _channel_axis(spec: InputSpec) -> int | None:
    return next((axis for axis, extent in enumerate(spec.shape) if axis and isinstance(extent, int)), None)


def _grouping(spec: InputSpec) -> tuple[int, int]:
    """Number of channels, and how many neighbours are taken together."""
    axis = _channel_axis(spec)
    channels = 1 if axis is None else int(spec.shape[axis])
    return channels, -(-channels // MOST_CHANNELS)


def _is_single(spec: InputSpec) -> bool:
    """Whether a channel of one sample is one value."""
    rest = [extent for axis, extent in enumerate(spec.shape) if axis and axis != _channel_axis(spec)]
    return all(extent == 1 for extent in rest) and _grouping(spec)[1] == 1


def _channel_names(name: str, spec: InputSpec) -> list[str]:
    channels, together = _grouping(spec)
    if _channel_axis(spec) is None:
        return [name]
    if together == 1:
        return [f"{name}[{channel}]" for channel in range(channels)]
    return [f"{name}[{first}:{min(first + together, channels)}]" for first in range(0, channels, together)]


def _channel_statistics(array: Array, spec: InputSpec, lengths: Lengths) -> tuple[Array, Array]:
    """Means and deviations [n, groups of channels], float64."""
    channels, together = _grouping(spec)
    means = np.empty((len(array), -(-channels // together)))
    deviations = np.empty_like(means)
    for rows, part in _unpadded(array, spec, lengths):
        step = max(1, _BLOCK // max(1, part[0].size))
        for start in range(0, len(rows), step):
            block = _by_channel(part[start : start + step], spec)
            chosen = rows[start : start + step]
            means[chosen], deviations[chosen] = _moments(block, together, float(spec.pad))
    return means, deviations


def _unpadded(array: Array, spec: InputSpec, lengths: Lengths) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Rows of samples that are equally long, and these samples cut to their lengths."""
    axes = [(axis, lengths[name]) for axis, name in enumerate(spec.shape) if axis and isinstance(name, str)]
    if not axes:
        yield np.arange(len(array)), array
        return
    extents, which = np.unique(np.stack([along for _, along in axes], axis=1), axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    for rows, extent in zip(np.split(order, np.cumsum(np.bincount(which.reshape(-1)))[:-1]), extents, strict=True):
        cut = [slice(None)] * array.ndim
        for (axis, _), length in zip(axes, extent.tolist(), strict=True):
            cut[axis] = slice(length)
        yield rows, array[tuple(cut)][rows]


def _by_channel(part: Array, spec: InputSpec) -> NDArray[np.float64]:
    """[n, rest, channels] in float64."""
    axis = _channel_axis(spec)
    last = part[..., None] if axis is None else np.moveaxis(part, axis, -1)
    rest = int(np.prod(last.shape[1:-1]))
    return np.asarray(last.reshape(len(part), rest, last.shape[-1]), dtype=np.float64)


def _moments(block: NDArray[np.float64], together: int, pad: float) -> tuple[Array, Array]:
    channels = block.shape[2]
    starts = np.arange(0, channels, together)
    sizes = np.diff(np.append(starts, channels))
    if block.shape[1] == 0:
        return np.full((len(block), starts.size), pad), np.zeros((len(block), starts.size))
    values = sizes * block.shape[1]
    means = np.add.reduceat(block.sum(axis=1), starts, axis=1) / values
    apart = block - np.repeat(means, sizes, axis=1)[:, None, :]
    squares = np.einsum("nrc,nrc->nc", apart, apart)
    return means, np.sqrt(np.add.reduceat(squares, starts, axis=1) / values)


def token_counts(
    arrays: Arrays, inputs: Mapping[str, InputSpec], batch_dim: str, masks: frozenset[str]
) -> dict[str, TokenCounts]:
    """By input of whole numbers that is no mask: its tokens without padding (`TokenCounts.total` adds up shards)."""
    tokens = [name for name, spec in inputs.items() if "int" in spec.dtype and name not in masks]
    lengths = unpadded_lengths(arrays, inputs, batch_dim) if tokens else {}
    return {name: _count(arrays[name], inputs[name], lengths) for name in tokens}


def _count(array: Array, spec: InputSpec, lengths: Lengths) -> TokenCounts:
    inside = np.ones(array.shape, dtype=bool)
    for axis, name in enumerate(spec.shape):
        if axis and isinstance(name, str):
            reached = np.arange(array.shape[axis]) < lengths[name][:, None]
            shape = [len(array) if a == 0 else array.shape[a] if a == axis else 1 for a in range(array.ndim)]
            inside &= reached.reshape(shape)
    tokens, codes = np.unique(array[inside].astype(np.int64), return_inverse=True)
    samples = np.broadcast_to(np.arange(len(array)).reshape([-1] + [1] * (array.ndim - 1)), array.shape)[inside]
    pairs = np.unique(samples * max(1, tokens.size) + codes)
    return TokenCounts(
        tokens=tokens,
        occurrences=np.bincount(codes, minlength=tokens.size),
        spread=np.bincount(pairs % max(1, tokens.size), minlength=tokens.size),
        samples=len(array),
    )


def sample_digests(arrays: Arrays, inputs: Mapping[str, InputSpec], batch_dim: str) -> list[str]:
    """SHA-256, 64 hexadecimal digits, of each sample's inputs without padding: name, dtype, shape and bytes.

    Equal digests are equal samples, whatever shard and padding they lie in. Labels and slices do not count.
    """
    lengths = unpadded_lengths(arrays, inputs, batch_dim)
    hashers = [hashlib.sha256() for _ in range(len(next(iter(arrays.values()))))]
    for name in sorted(inputs):
        axes = [lengths.get(axis) if isinstance(axis, str) else None for axis in inputs[name].shape[1:]]
        little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        for row, hasher in enumerate(hashers):
            cut = little[row][tuple(slice(None if along is None else int(along[row])) for along in axes)]
            hasher.update(json.dumps([name, cut.dtype.name, cut.shape]).encode())
            hasher.update(np.ascontiguousarray(cut).data)
    return [hasher.hexdigest() for hasher in hashers]
