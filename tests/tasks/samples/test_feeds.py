from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.declared import Dim, InputSpec
from tasks.samples.feeds import make_feeds, split_batches
from tasks.samples.npz import save_shard

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = {
    "ids": InputSpec(dtype="int64", shape=("batch", "sequence")),
    "image": InputSpec(dtype="float32", shape=("batch", 2, "sequence")),
}


def write_shards(folder: Path, *shapes: tuple[int, int]) -> Path:
    """Shards of (samples, sequence) whose values tell their shard, sample and position."""
    for number, (samples, sequence) in enumerate(shapes):
        ids = 1000 * number + 100 * np.arange(samples)[:, None] + np.arange(sequence)
        image = np.repeat(ids[:, None, :], 2, axis=1).astype(np.float32)
        save_shard(folder, number, {"ids": ids, "image": image})
    return folder


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (3, 5), (4, 5), (9, 13), (2, 8), (1, 20)])
def test_feeds_have_the_wanted_extents_and_dtypes_in_c_order(tmp_path: Path, batch: int, sequence: int) -> None:
    feeds = make_feeds(write_shards(tmp_path, (4, 5), (2, 8)), INPUTS, {"batch": batch, "sequence": sequence})
    assert {name: feed.shape for name, feed in feeds.items()} == {
        "ids": (batch, sequence),
        "image": (batch, 2, sequence),
    }
    assert {name: feed.dtype.name for name, feed in feeds.items()} == {"ids": "int64", "image": "float32"}
    assert all(feed.flags.c_contiguous for feed in feeds.values())


def test_feeds_are_cut_from_the_shard_nearest_in_shape_and_repeat_it_where_it_ends(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, (4, 5), (2, 8))
    cut = make_feeds(folder, INPUTS, {"batch": 1, "sequence": 7})
    assert cut["ids"].tolist() == [[1000, 1001, 1002, 1003, 1004, 1005, 1006]]
    tiled = make_feeds(folder, INPUTS, {"batch": 3, "sequence": 10})
    assert tiled["ids"][:, 7:].tolist() == [[1007, 1000, 1001], [1107, 1100, 1101], [1007, 1000, 1001]]
    np.testing.assert_array_equal(tiled["image"][:, 0], tiled["ids"])


batches = st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 6)).map(
    lambda parts: Dim(min=parts[0], opt=parts[0] + parts[1], max=sum(parts))
)


@settings(derandomize=True, deadline=None)
@given(samples=st.integers(1, 40), batch=batches)
def test_batches_hold_every_sample_once_in_order_and_never_leave_the_dim(samples: int, batch: Dim) -> None:
    shard = {"a": np.arange(samples), "b": np.arange(samples)[:, None] * 2}
    found: list[int] = []
    for feeds, real in split_batches(shard, batch):
        assert batch.min <= len(feeds["a"]) <= batch.max
        assert 1 <= real <= len(feeds["a"])
        np.testing.assert_array_equal(feeds["b"][:, 0], feeds["a"] * 2)
        assert set(feeds["a"][real:].tolist()) <= set(feeds["a"][:real].tolist())
        found += feeds["a"][:real].tolist()
    assert found == list(range(samples))
