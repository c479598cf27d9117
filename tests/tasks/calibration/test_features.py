"""Features and digests of samples: against numpy on each sample alone, whatever the padding."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.calibration.features import (
    MOST_CHANNELS,
    feature_names,
    find_masks,
    sample_digests,
    sample_features,
    token_counts,
    unpadded_lengths,
)
from tasks.declared import InputSpec
from validation.drift import TokenCounts

if TYPE_CHECKING:
    from tasks.samples.npz import Arrays

NO_MASKS: frozenset[str] = frozenset()
ORAL = {
    "mel": InputSpec(dtype="float32", shape=("batch", "frames", 5), pad=-11.5),
    "mask": InputSpec(dtype="float32", shape=("batch", "frames")),
}
ESSAY = {
    "input_ids": InputSpec(dtype="int64", shape=("batch", "sequence"), pad=1),
    "attention_mask": InputSpec(dtype="int64", shape=("batch", "sequence")),
}
IMAGE = {"image": InputSpec(dtype="float32", shape=("batch", 3, 8, 6))}


def oral(lengths: list[int], extent: int, seed: int = 0) -> Arrays:
    """Samples whose content depends on seed and place alone, padded to an extent."""
    mel = np.full((len(lengths), extent, 5), -11.5, dtype=np.float32)
    mask = np.zeros((len(lengths), extent), dtype=np.float32)
    for row, length in enumerate(lengths):
        mel[row, :length] = np.random.default_rng([seed, row]).normal(3, 2, (length, 5))
        mask[row, :length] = 1
    return {"mel": mel, "mask": mask}


def essays(*texts: list[int], extent: int = 9) -> Arrays:
    ids, mask = np.full((len(texts), extent), 1, dtype=np.int64), np.zeros((len(texts), extent), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def features(arrays: Arrays, inputs: dict[str, InputSpec], masks: frozenset[str] = NO_MASKS) -> dict[str, np.ndarray]:
    names, values = feature_names(inputs, "batch", masks), sample_features(arrays, inputs, "batch", masks)
    assert values.shape[1] == len(names)
    assert values.dtype == np.float32
    return dict(zip(names, values.T, strict=True))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(12, 20))
def test_mean_and_deviation_of_a_channel_are_numpys_over_what_is_no_padding(lengths: list[int], extent: int) -> None:
    arrays = oral(lengths, extent)
    found = features(arrays, ORAL, frozenset({"mask"}))
    assert list(found) == [
        "length of frames",
        *(f"mel[{c}] {what}" for what in ("mean", "deviation") for c in range(5)),
    ]
    for row, length in enumerate(lengths):
        inside = arrays["mel"][row, :length].astype(np.float64)
        assert found["length of frames"][row] == length
        assert found["mel[3] mean"][row] == pytest.approx(inside[:, 3].mean(), rel=1e-6)
        assert found["mel[3] deviation"][row] == pytest.approx(inside[:, 3].std(), rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(12, 20), st.integers(12, 20))
def test_padding_changes_neither_features_nor_digests(lengths: list[int], one: int, other: int) -> None:
    left, right = oral(lengths, one), oral(lengths, other)
    assert sample_digests(left, ORAL, "batch") == sample_digests(right, ORAL, "batch")
    both = [sample_features(side, ORAL, "batch", frozenset({"mask"})) for side in (left, right)]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_what_looks_like_padding_is_data_where_another_input_says_so() -> None:
    arrays = oral([4, 7], 9)
    arrays["mel"][0, 2:4] = -11.5
    assert unpadded_lengths(arrays, ORAL, "batch")["frames"].tolist() == [4, 7]
    arrays["mask"][0, 2:4] = 0
    assert unpadded_lengths(arrays, ORAL, "batch")["frames"].tolist() == [2, 7]


def test_the_pad_inside_a_sample_is_data() -> None:
    arrays = essays([5, 1, 1, 6])
    arrays["attention_mask"][:] = 0
    assert unpadded_lengths(arrays, ESSAY, "batch")["sequence"].tolist() == [4]


def test_a_sample_that_is_padding_from_end_to_end_has_length_zero_and_its_pad_as_mean() -> None:
    found = features(oral([0, 3], 6), ORAL, frozenset({"mask"}))
    assert (found["length of frames"][0], found["mel[2] mean"][0], found["mel[2] deviation"][0]) == (0, -11.5, 0)


def test_two_padded_dimensions_are_each_cut() -> None:
    inputs = {"page": InputSpec(dtype="float32", shape=("batch", 2, "height", "width"))}
    page = np.zeros((1, 2, 7, 9), dtype=np.float32)
    page[0, :, :4, :5] = np.arange(1, 41).reshape(2, 4, 5)
    found = features({"page": page}, inputs)
    assert (found["length of height"][0], found["length of width"][0]) == (4, 5)
    assert found["page[1] mean"][0] == pytest.approx(np.arange(21, 41).mean())


def test_images_have_a_mean_and_a_deviation_for_each_channel(rng: np.random.Generator) -> None:
    image = rng.normal(100, 5, (4, 3, 8, 6)).astype(np.float32)
    found = features({"image": image}, IMAGE)
    assert len(found) == 6
    np.testing.assert_allclose(found["image[1] mean"], image[:, 1].mean(axis=(1, 2), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(found["image[2] deviation"], image[:, 2].std(axis=(1, 2), dtype=float), rtol=1e-6)


def test_a_table_has_its_values_as_features(rng: np.random.Generator) -> None:
    inputs = {
        "row": InputSpec(dtype="float64", shape=("batch", 4)),
        "price": InputSpec(dtype="float32", shape=("batch",)),
    }
    row, price = rng.normal(size=(6, 4)), rng.normal(size=6).astype(np.float32)
    found = features({"row": row, "price": price}, inputs)
    assert list(found) == ["row[0]", "row[1]", "row[2]", "row[3]", "price"]
    np.testing.assert_array_equal(np.column_stack(list(found.values())), np.column_stack([row, price]).astype("f4"))


def test_an_input_without_channels_is_one(rng: np.random.Generator) -> None:
    inputs = {"wave": InputSpec(dtype="float16", shape=("batch", "time"))}
    wave = rng.normal(5, 1, (3, 40)).astype(np.float16)
    found = features({"wave": wave}, inputs)
    assert list(found) == ["length of time", "wave mean", "wave deviation"]
    np.testing.assert_allclose(found["wave mean"], wave.astype(float).mean(axis=1), rtol=1e-6)


def test_neighbours_are_taken_together_where_channels_are_many(rng: np.random.Generator) -> None:
    inputs = {"vector": InputSpec(dtype="float32", shape=("batch", 300))}
    vector = rng.normal(size=(5, 300)).astype(np.float32)
    found = features({"vector": vector}, inputs)
    assert len(found) == 2 * 100 <= 2 * MOST_CHANNELS
    np.testing.assert_allclose(found["vector[297:300] mean"], vector[:, 297:].mean(axis=1, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(found["vector[0:3] deviation"], vector[:, :3].std(axis=1, dtype=float), rtol=1e-5)


def test_a_last_group_that_is_smaller_is_divided_by_its_own_size(rng: np.random.Generator) -> None:
    inputs = {"vector": InputSpec(dtype="float32", shape=("batch", 129))}
    vector = rng.normal(size=(5, 129)).astype(np.float32)
    found = features({"vector": vector}, inputs)
    np.testing.assert_array_equal(found["vector[128:129] mean"], vector[:, 128])


def test_deviations_of_large_values_do_not_cancel() -> None:
    image = np.full((1, 3, 8, 6), 1e6, dtype=np.float32)
    image[0, 0, ::2] += 1
    assert features({"image": image}, IMAGE)["image[0] deviation"][0] == pytest.approx(0.5, rel=1e-6)


def test_masks_are_told_from_tokens_and_from_numbers_over_all_shards() -> None:
    inputs = {
        **ESSAY,
        "noisy": InputSpec(dtype="float32", shape=("batch", "sequence")),
        "speaker": InputSpec(dtype="int32", shape=("batch",)),
        "padded": InputSpec(dtype="bool", shape=("batch", "sequence")),
        "grade": InputSpec(dtype="float32", shape=("batch",)),
    }
    shards = []
    for value in (1.0, 0.5):
        shard = essays([4, 5], [7])
        shard["noisy"] = np.array([[0, 1, value], [1, 0, 0]], dtype=np.float32)
        shard["speaker"] = np.array([0, int(10 * value)], dtype=np.int32)
        shard["padded"], shard["grade"] = np.zeros((2, 9), dtype=bool), np.array([0, 1], dtype=np.float32)
        shards.append(shard)
    assert find_masks(shards[:1], inputs) == {"attention_mask", "noisy", "speaker", "padded"}
    assert find_masks(shards, inputs) == {"attention_mask", "padded"}


def test_masks_and_tokens_have_no_features_but_their_length() -> None:
    assert feature_names(ESSAY, "batch", frozenset({"attention_mask"})) == ("length of sequence",)


def test_tokens_are_counted_without_padding() -> None:
    found = token_counts(essays([5, 1, 5], [8], [5, 8]), ESSAY, "batch", frozenset({"attention_mask"}))
    assert list(found) == ["input_ids"]
    counts = found["input_ids"]
    assert [a.tolist() for a in (counts.tokens, counts.occurrences, counts.spread)] == [[1, 5, 8], [1, 3, 2], [1, 2, 2]]
    assert counts.samples == 3


def test_tokens_of_shards_add_up_to_those_of_all() -> None:
    texts = [[5, 6], [7, 7, 7], [5], [9, 6]]
    parts = [token_counts(essays(*texts[:2], extent=4), ESSAY, "batch", NO_MASKS)["input_ids"]]
    parts.append(token_counts(essays(*texts[2:], extent=7), ESSAY, "batch", NO_MASKS)["input_ids"])
    whole = token_counts(essays(*texts), ESSAY, "batch", NO_MASKS)["input_ids"]
    total = TokenCounts.total(parts)
    assert (total.tokens.tolist(), total.spread.tolist()) == (whole.tokens.tolist(), whole.spread.tolist())
    assert total.occurrences.tolist() == whole.occurrences.tolist() == [2, 2, 3, 1]


def test_a_digest_is_that_of_name_dtype_shape_and_bytes() -> None:
    inputs = {"ids": InputSpec(dtype="int16", shape=("batch", "sequence"))}
    ids = np.array([[7, 8, 0]], dtype=np.int16)
    expected = hashlib.sha256(b'["ids", "int16", [2]]' + b"\x07\x00\x08\x00").hexdigest()
    assert sample_digests({"ids": ids}, inputs, "batch") == [expected]


def test_digests_differ_where_a_value_an_order_or_a_length_differs() -> None:
    arrays = essays([5, 6], [6, 5], [5, 6, 1], [5], [])
    digests = sample_digests(arrays, ESSAY, "batch")
    assert len(set(digests)) == 5
    changed = {**arrays, "input_ids": arrays["input_ids"].copy()}
    changed["input_ids"][3, 0] = 4
    differs = [a != b for a, b in zip(digests, sample_digests(changed, ESSAY, "batch"), strict=True)]
    assert differs == [False, False, False, True, False]


def test_digests_do_not_depend_on_labels_nor_on_the_layout_in_memory(rng: np.random.Generator) -> None:
    image = rng.normal(size=(3, 3, 8, 6)).astype(np.float32)
    turned = np.asfortranarray(image)
    labelled = {"image": turned, "label": np.arange(3), "slice.script": np.array(["a", "b", "c"])}
    assert sample_digests(labelled, IMAGE, "batch") == sample_digests({"image": image}, IMAGE, "batch")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)
