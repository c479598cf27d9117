"""The few validation samples that show which values FP16 must hold.

They are hints and nothing more: all that they decide is which operations stay in FP32. Validation data may give them
although it judges the engine later, since few of its samples are taken: what they do not show and the others do is
still found by the gate. The calibration set does not give them: it belongs to INT8, and FP16 must come out the same
whether INT8 is made beside it or not, and while there is no set yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.samples.feeds import split_batches
from tasks.samples.npz import Arrays, load_arrays, shard_paths

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.specs import ModelSpec

RANGE_SAMPLES = 16
"""So many at most: AutoCast holds every tensor of all of them at once."""


def range_samples(folder: Path, spec: ModelSpec) -> list[Arrays]:
    """Batches of at most RANGE_SAMPLES samples of the shards in `folder`, each batch of one shape.

    Half of them are those with the largest magnitude in a float input; the others lie evenly over the data.
    """
    paths, half = shard_paths(folder), RANGE_SAMPLES // 2
    loudness = [_loudness(load_arrays(path)) for path in paths]
    is_chosen = _choose(np.concatenate(loudness), half)
    batches: list[Arrays] = []
    for path, here in zip(paths, np.split(is_chosen, np.cumsum([len(each) for each in loudness])[:-1]), strict=True):
        if here.any():
            shard = {name: array[here] for name, array in load_arrays(path).items()}
            batches += [feeds for feeds, _ in split_batches(shard, spec.dims[spec.batch_dim])]
    return batches


def _choose(loudness: np.ndarray[Any, Any], half: int) -> np.ndarray[Any, Any]:
    is_chosen = np.zeros(len(loudness), bool)
    is_chosen[np.argsort(-loudness, kind="stable")[:half]] = True
    others = np.flatnonzero(~is_chosen)
    is_chosen[others[:: max(1, -(-len(others) // half))]] = True
    return is_chosen


def _loudness(shard: Arrays) -> np.ndarray[Any, Any]:
    """The largest magnitude of any float input, for each sample; 0 where there is none."""
    samples = len(next(iter(shard.values())))
    loudest = np.zeros(samples)
    for array in shard.values():
        if array.dtype.kind == "f" and array.size:
            loudest = np.maximum(loudest, np.abs(array.reshape(samples, -1).astype(np.float64)).max(axis=1))
    return loudest
