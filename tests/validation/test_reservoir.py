"""Samples that are kept: all, or a random part that does not depend on the split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from validation.reservoir import KeptSamples, sample_hashes


def keep(numbers: np.ndarray, cuts: list[int], limit: int) -> KeptSamples:
    kept = KeptSamples(("x", "pair"), limit)
    for part in np.split(numbers, sorted(min(cut, numbers.size) for cut in cuts)):
        kept.add({"x": part, "pair": np.stack([part, -part], axis=1)})
    return kept


@given(st.integers(0, 400), st.lists(st.integers(0, 400), max_size=6), st.integers(1, 64))
def test_what_is_kept_does_not_depend_on_the_split(count: int, cuts: list[int], limit: int) -> None:
    numbers = np.arange(count, dtype=float)
    one, other = keep(numbers, cuts, limit), keep(numbers, [], limit)
    for name in ("x", "pair", "hash"):
        assert one.column(name).tobytes() == other.column(name).tobytes()
    assert one.first_half.tolist() == other.first_half.tolist()
    assert one.seen == other.seen == count


def test_up_to_the_limit_every_sample_is_kept_and_beyond_a_part_in_order() -> None:
    numbers = np.arange(1_000.0)
    assert keep(numbers, [300], 1_000).column("x").tolist() == numbers.tolist()
    part = keep(numbers, [300], 999).column("x")
    assert 400 < part.size < 600
    assert (np.diff(part) > 0).all()


def test_columns_of_a_kept_sample_stay_together() -> None:
    kept = keep(np.arange(5_000.0), [1, 4_000], 100)
    assert kept.column("pair")[:, 0].tolist() == kept.column("x").tolist()
    assert kept.column("hash").tolist() == sample_hashes(0, 5_000)[kept.column("x").astype(int)].tolist()


def test_the_part_that_is_kept_has_no_period() -> None:
    part = keep(np.arange(200_000.0), [], 20_000).column("x").astype(int)
    for period in (2, 3, 7, 8, 16):
        assert stats.chisquare(np.bincount(part % period)).pvalue > 1e-4


def test_hashes_are_those_of_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) for the seed 0.
    assert [hex(number) for number in sample_hashes(0, 3).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
    assert sample_hashes(2, 1) == sample_hashes(0, 3)[2]


def test_the_halves_are_of_about_one_size_and_say_nothing_of_what_is_kept() -> None:
    kept = keep(np.arange(100_000.0), [], 10_000)
    assert kept.first_half.mean() == pytest.approx(0.5, abs=0.02)
    assert (keep(np.arange(64.0), [], 64).first_half == (sample_hashes(0, 64) % np.uint64(2) == 0)).all()


@pytest.mark.parametrize(
    ("dtype", "kept_as"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f4"), ("i8", "f8"), ("?", "f4"), ("u2", "f4"), ("i4", "f8")],
)
def test_numbers_keep_all_their_digits(dtype: str, kept_as: str) -> None:
    kept = KeptSamples(("x",))
    kept.add({"x": np.array([0, 1], dtype=dtype)})
    assert kept.column("x").dtype == kept_as


def test_float64_after_float32_keeps_both_exact() -> None:
    kept = KeptSamples(("x",))
    kept.add({"x": np.array([0.1], dtype=np.float32)})
    kept.add({"x": np.array([1 / 3])})
    assert kept.column("x").tolist() == [float(np.float32(0.1)), 1 / 3]


def test_nothing_kept_is_an_empty_column() -> None:
    assert KeptSamples(("x",)).column("x").size == 0
