"""Makes batches of a wanted shape out of real samples, and runs shards in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import StageError
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.samples.possible import find_followers, fit_values, follows_an_extent, loses_a_mask, value_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tasks.declared import Dim, InputSpec


def make_feeds(folder: Path, inputs: Mapping[str, InputSpec], extents: Mapping[str, int]) -> Arrays:
    """Return inputs of the wanted `extents` (by named dimension), cut or tiled from the shard nearest in shape.

    They stay possible: lengths and positions lie within what is left of the dimension that they follow, and where a
    mask would keep nothing, dimensions lose their beginning and not their end.
    """
    # Dimensions that can be followed: where the samples stand is none.
    first = {spec.shape[0] for spec in inputs.values()}
    dims = [dim for dim in extents if dim not in first]
    best = min((load_arrays(path) for path in shard_paths(folder)), key=lambda shard: _distance(shard, inputs, extents))
    follows = find_followers((load_arrays(path) for path in shard_paths(folder)), inputs, dims)
    feeds = {name: _fit(best[name], spec, extents) for name, spec in inputs.items()}
    if any(loses_a_mask(best[name], feeds[name]) for name in inputs):
        feeds = {name: _fit(best[name], spec, extents, from_end=True) for name, spec in inputs.items()}
    fitted = {name: fit_values(feeds[name], spec, follows.get(name), extents) for name, spec in inputs.items()}
    return {name: _reaching(fitted[name], spec, extents) for name, spec in inputs.items()}


def _distance(shard: Arrays, inputs: Mapping[str, InputSpec], extents: Mapping[str, int]) -> int:
    return sum(
        abs(found - extents[dimension])
        for name, spec in inputs.items()
        for found, dimension in zip(shard[name].shape[1:], spec.shape[1:], strict=True)
        if isinstance(dimension, str)
    )


def _fit(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    spec: InputSpec,
    extents: Mapping[str, int],
    *,
    from_end: bool = False,
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    for axis, dimension in enumerate(spec.shape):
        if isinstance(dimension, str):
            lost = max(0, array.shape[axis] - extents[dimension]) if from_end and axis else 0
            array = np.take(array, (lost + np.arange(extents[dimension])) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)


def _reaching(array: np.ndarray[Any, Any], spec: InputSpec, extents: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """With the first of declared lengths as long as the dimension is: a batch is padded to its longest sample."""
    if follows_an_extent(spec):
        array[0] = value_bounds(spec, extents)[1]
    return array


def split_batches(shard: Arrays, batch: Dim, sizes: Iterator[int] | None = None) -> Iterator[tuple[Arrays, int]]:
    """Cut a shard into batches of `batch.opt` samples, or of `sizes` in turn; yield each with how many are real.

    A last batch below `batch.min` is filled up with its own samples, whose outputs the caller drops.
    """
    samples = len(next(iter(shard.values())))
    start = 0
    while start < samples:
        real = min(batch.opt if sizes is None else next(sizes), samples - start)
        rows = start + np.arange(max(real, batch.min)) % real
        yield {name: array[rows] for name, array in shard.items()}, real
        start += real


def run_shard(run: Callable[[Arrays], Arrays], shard: Arrays, batch: Dim, sizes: Iterator[int] | None = None) -> Arrays:
    """Outputs of a whole shard, run in batches of the `opt` size, or of `sizes` in turn.

    Raises:
        StageError: an output's shape differs between batches in more than the number of samples.
    """
    parts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for feeds, real in split_batches(shard, batch, sizes):
        fed = len(next(iter(feeds.values())))
        for name, array in run(feeds).items():
            parts.setdefault(name, []).append(_without_filling(array, fed, real))
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise StageError(f"the engine's outputs cannot be joined over batches: {error}") from None


def _without_filling(array: np.ndarray[Any, Any], fed: int, real: int) -> np.ndarray[Any, Any]:
    # An output that has not one row for each sample stays as it is: cut to length, it would pass for a right one.
    return array[:real] if array.ndim and len(array) == fed else array
