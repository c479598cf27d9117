from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.samples import fresh_inputs
from tasks.samples.fresh_inputs import Draw, FreshShard, fresh_shards
from tasks.samples.npz import save_shard
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from tasks.samples.npz import Arrays

BATCH = {"batch": {"min": 1, "opt": 8, "max": 16}}
LENGTH = BATCH | {"length": {"min": 2, "opt": 6, "max": 12}}
TEXT = {
    "ids": {"dtype": "int64", "shape": ["batch", "length"], "pad": 1},
    "mask": {"dtype": "int64", "shape": ["batch", "length"]},
    "kind": {"dtype": "int32", "shape": ["batch"]},
}
WIDE = {"features": {"dtype": "float32", "shape": ["batch", 4]}}


def made(folder: Path, shards: Sequence[Arrays], inputs: Any = WIDE, dims: Any = BATCH) -> list[FreshShard]:
    for number, shard in enumerate(shards):
        save_shard(folder, number, shard)
    return list(fresh_shards(folder, tiny_spec(inputs=inputs, dims=dims)))


def vectors(count: int = 50, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).random((count, 4)) * [1, 10, 100, 1000]).astype(np.float32)


def texts(count: int, length: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(3, length + 1, count)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(10, 30, (count, length)), 1)
    return {"ids": ids, "mask": mask, "kind": rng.integers(2, 5, count).astype(np.int32)}


def test_no_fresh_sample_is_in_the_data_and_each_lies_in_the_range_of_its_channel(tmp_path: Path) -> None:
    data = vectors()
    shards = made(tmp_path, [{"features": data[:20]}, {"features": data[20:]}])
    assert [shard.draw for shard in shards] == list(Draw)
    known = {row.tobytes() for row in data}
    for shard in shards:
        features = shard.inputs["features"]
        assert features.shape == (32, 4)
        assert features.dtype == np.float32
        assert not known & {row.tobytes() for row in features}
        assert (features >= data.min(axis=0)).all()
        assert (features <= data.max(axis=0)).all()
    drawn = shards[0].inputs["features"]
    assert (drawn.max(axis=0) > 0.8 * data.max(axis=0)).all(), "all of the range is used"


def test_the_same_data_gives_the_same_inputs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for one, other in zip(*(made(tmp_path / name, [{"features": vectors()}]) for name in "ab"), strict=True):
        np.testing.assert_array_equal(one.inputs["features"], other.inputs["features"])


def test_texts_keep_their_vocabulary_their_masks_and_their_padding_at_every_length(tmp_path: Path) -> None:
    shards = made(tmp_path, [texts(20, 8, 1), texts(20, 12, 2)], TEXT, LENGTH)
    assert {shard.shape for shard in shards} == {"length=2", "length=6", "length=12", "length=7"}
    for shard in shards:
        ids, mask, kind = (shard.inputs[name] for name in ("ids", "mask", "kind"))
        assert set(np.unique(mask)) <= {0, 1}
        assert (np.diff(mask, axis=1) <= 0).all()
        assert (mask.sum(axis=1) >= min(3, mask.shape[1])).all()
        assert (ids[mask == 0] == 1).all()
        assert ids.min() >= 1
        assert ids.max() < 30
        assert set(np.unique(kind)) <= {2, 3, 4}
        assert [array.dtype.name for array in (ids, mask, kind)] == ["int64", "int64", "int32"]
        if shard.shape == "length=12":
            assert len(set(mask.sum(axis=1).tolist())) > 1, "of several lengths"
            assert mask[0].all(), "and of the full one"


def test_floats_that_hold_whole_numbers_stay_whole(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 9, (50, 4)).astype(np.float32)
    for shard in made(tmp_path, [{"features": whole}]):
        np.testing.assert_array_equal(shard.inputs["features"], np.rint(shard.inputs["features"]))


def test_a_mixed_sample_begins_as_one_and_ends_as_another(tmp_path: Path) -> None:
    data = np.repeat(np.arange(8, dtype=np.float32)[:, None], 4, axis=1)
    mixed = made(tmp_path, [{"features": data}])[2].inputs["features"]
    assert (mixed[:, 0] != mixed[:, 3]).all()
    assert all(len(set(row.tolist())) == 2 for row in mixed)


def test_inputs_that_are_all_masks_are_made_anew_all_the_same(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(np.float32)
    drawn = made(tmp_path, [{"features": bits}])[0].inputs["features"]
    assert len(np.unique(drawn, axis=0)) > 8


def test_one_sample_is_enough_and_large_ones_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_inputs, "MOST_BYTES", 40)
    assert [len(shard.inputs["features"]) for shard in made(tmp_path, [{"features": vectors(1)}])] == [2, 2, 2]
