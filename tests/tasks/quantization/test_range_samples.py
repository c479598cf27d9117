from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.quantization.range_samples import RANGE_SAMPLES, range_samples
from tasks.samples.npz import save_shard
from tests.tasks.tiny import make_features, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([batch["features"] for batch in batches])


def test_the_largest_values_of_the_data_are_among_the_few_samples(tmp_path: Path) -> None:
    features = make_features(200)
    features[[7, 120]] *= 1000
    for number, part in enumerate(np.split(features, 4)):
        save_shard(tmp_path, number, {"features": part})
    found = rows_of(range_samples(tmp_path, tiny_spec()))
    assert len(found) == RANGE_SAMPLES
    assert {7, 120} <= {int(np.flatnonzero((features == row).all(axis=1))[0]) for row in found}


def test_whole_numbers_have_no_magnitude_and_lie_evenly_over_the_data(tmp_path: Path) -> None:
    tokens = np.arange(64, dtype=np.int64)[:, None]
    save_shard(tmp_path, 0, {"features": tokens})
    found = rows_of(range_samples(tmp_path, tiny_spec()))[:, 0]
    assert len(found) <= RANGE_SAMPLES
    assert found.max() >= 56


def test_batches_have_a_size_that_the_model_takes(tmp_path: Path) -> None:
    save_shard(tmp_path, 0, {"features": make_features(3)})
    spec = tiny_spec(dims={"batch": {"min": 8, "opt": 8, "max": 8}})
    assert [len(batch["features"]) for batch in range_samples(tmp_path, spec)] == [8]
