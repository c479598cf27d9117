from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.declared import Dim
from tasks.samples.feeds import make_feeds
from tasks.samples.fresh_inputs import fresh_shards
from tasks.samples.npz import save_shard
from tasks.samples.shapes import check_shapes, seeded_feeds, trace_extents
from tasks.specs import ModelSpec
from tests.tasks.tiny import changed

if TYPE_CHECKING:
    from pathlib import Path

TIME = {"min": 4, "opt": 16, "max": 32}
BATCH = {"min": 1, "opt": 4, "max": 8}


def spec(**inputs: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate(changed(inputs=inputs, dims={"batch": BATCH, "time": TIME}))


def whole(*shape: str | int, **more: Any) -> dict[str, Any]:
    return {"dtype": "int64", "shape": list(shape), **more}


FLOATS = {"dtype": "float32", "shape": ["batch", "time", 2]}


def data(folder: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    samples = len(next(iter(arrays.values())))
    x = np.random.default_rng(0).standard_normal((samples, 16, 2)).astype(np.float32)
    save_shard(folder, 0, {"x": x, **arrays})
    return folder


@pytest.mark.parametrize("declared", [{}, {"range": [1, "time"]}])
def test_lengths_lie_within_what_is_left_of_their_dimension(tmp_path: Path, declared: dict[str, Any]) -> None:
    model = spec(x=FLOATS, lengths=whole("batch", **declared))
    folder = data(tmp_path, lengths=np.arange(4, 17))
    for extents in check_shapes(model.dims):
        lengths = make_feeds(folder, model.inputs, extents)["lengths"]
        assert 1 <= lengths.min() <= lengths.max() <= extents["time"]
    for shard in fresh_shards(folder, model):
        lengths, steps = shard.inputs["lengths"], shard.inputs["x"].shape[1]
        assert lengths.shape == shard.inputs["x"].shape[:1]
        assert 1 <= lengths.min() <= lengths.max() <= steps
        assert not declared or lengths[0] == steps, "a batch is as long as its longest sample"


def test_places_lie_below_the_extent(tmp_path: Path) -> None:
    model = spec(x=FLOATS, spans=whole("batch", 2))
    folder = data(tmp_path, spans=np.stack([np.zeros(16, np.int64), np.arange(16)], 1))
    assert make_feeds(folder, model.inputs, {"batch": 8, "time": 4})["spans"].max() == 3


def test_kinds_that_only_happen_to_be_small_stay_those_seen(tmp_path: Path) -> None:
    model = spec(x=FLOATS, kind=whole("batch"))
    folder = data(tmp_path, kind=np.tile([5, 6, 7], 5))
    assert set(make_feeds(folder, model.inputs, {"batch": 8, "time": 4})["kind"].tolist()) <= {5, 6, 7}


def test_a_mask_that_begins_with_padding_keeps_its_end(tmp_path: Path) -> None:
    model = spec(x=FLOATS, mask=whole("batch", "time"))
    mask = (np.arange(16)[None] >= np.arange(15, 1, -1)[:, None]).astype(np.int64)
    folder = data(tmp_path, mask=mask)
    assert make_feeds(folder, model.inputs, {"batch": 8, "time": 4})["mask"].any(axis=1).all()
    for shard in fresh_shards(folder, model):
        assert shard.inputs["mask"].any(axis=1).all()


def test_inputs_without_data_are_of_their_ranges() -> None:
    model = spec(x=FLOATS, lengths=whole("batch", range=[1, "time"]), places=whole("batch", range=[0, "time-1"]))
    feeds = seeded_feeds(model.inputs, {"batch": 64, "time": 5})
    assert (feeds["lengths"].min(), feeds["lengths"].max(), feeds["lengths"][0]) == (1, 5, 5)
    assert (feeds["places"].min(), feeds["places"].max()) == (0, 4)


def test_all_shapes_that_are_tried_are_multiples() -> None:
    dims = {"batch": Dim(**BATCH), "side": Dim(min=16, opt=32, max=96, multiple_of=16)}
    sides = {shape["side"] for shape in check_shapes(dims)}
    assert {16, 32, 96} < sides
    assert all(side % 16 == 0 for side in (*sides, trace_extents(dims)["side"]))


def test_a_scalar_is_one_for_all_samples_of_a_shape(tmp_path: Path) -> None:
    model = spec(x=FLOATS, scale={"dtype": "float32", "shape": []})
    folder = data(tmp_path, scale=np.full(9, 0.5, np.float32))
    for shard in fresh_shards(folder, model):
        assert len(set(shard.inputs["scale"].tolist())) == 1
