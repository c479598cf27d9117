"""Makes batches of a wanted shape out of real samples, for benchmarks and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.samples.npz import load_arrays, shard_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.samples.npz import Arrays
    from tasks.specs import Dim, InputSpec


def make_feeds(folder: Path, inputs: Mapping[str, InputSpec], extents: Mapping[str, int]) -> Arrays:
    """Return inputs of the wanted `extents` (by named dimension), cut or tiled from the shard nearest in shape."""
    best = min(
        (load_arrays(path) for path in shard_paths(folder)),
        key=lambda shard: sum(
            abs(found - extents[dimension])
            for name, spec in inputs.items()
            for found, dimension in zip(shard[name].shape[1:], spec.shape[1:], strict=True)
            if isinstance(dimension, str)
        ),
    )
    return {name: _fit(best[name], spec, extents) for name, spec in inputs.items()}


def _fit(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], spec: InputSpec, extents: Mapping[str, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    for axis, dimension in enumerate(spec.shape):
        if isinstance(dimension, str):
            array = np.take(array, np.arange(extents[dimension]) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)


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
