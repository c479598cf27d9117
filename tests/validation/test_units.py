"""Sums over units: the same bytes however the samples are cut, in bounded memory, and right."""

from math import fsum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation import units
from validation.units import MOST_UNITS, Units, units_of


def add_in_parts(numbers: np.ndarray, cuts: list[int]) -> Units:
    found = Units(("x", "y"))
    for part in np.split(numbers, sorted(min(cut, numbers.size) for cut in cuts)):
        found.add({"x": part, "y": part * part})
    return found


@given(st.integers(0, 300), st.lists(st.integers(0, 300), max_size=6))
def test_units_are_the_same_bytes_in_any_split(count: int, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_UNITS", 8)
        patch.setattr(units, "LARGEST_PART", 4)
        numbers = np.random.default_rng(count).normal(0, 1e3, count)
        one, other = add_in_parts(numbers, cuts), add_in_parts(numbers, [])
        assert one.samples == other.samples == count
        assert one.sizes.tobytes() == other.sizes.tobytes()
        for name in "xy":
            assert one.sums[name].tobytes() == other.sums[name].tobytes()


@pytest.mark.parametrize("count", [1, 100, 2 * MOST_UNITS - 1, 2 * MOST_UNITS, 2 * MOST_UNITS + 1, 50_001, 100_000])
def test_units_hold_every_sample_once_and_stay_few(count: int) -> None:
    numbers = np.random.default_rng(1).random(count)
    found = units_of({"x": numbers})
    assert found.sizes.sum() == count
    assert found.sizes.size == found.sums["x"].size <= 2 * MOST_UNITS
    assert found.sums["x"].sum() == pytest.approx(fsum(numbers), rel=1e-12)
    if count >= 2 * MOST_UNITS:
        assert found.sizes.size >= MOST_UNITS


def test_a_unit_is_the_sum_of_neighbours_in_the_order_in_which_they_came() -> None:
    count = 4 * MOST_UNITS + 3
    found = units_of({"x": np.arange(count, dtype=float)})
    size = int(found.sizes[0])
    assert size == 4
    assert found.sums["x"][:3].tolist() == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11]
    assert found.sizes[-1] == 3
    assert found.sums["x"][-1] == sum(range(count - 3, count))


def test_few_samples_are_units_of_their_own() -> None:
    found = units_of({"x": np.array([3.0, 1.0]), "flag": np.array([True, False])})
    assert found.sizes.tolist() == [1, 1]
    assert found.sums["x"].tolist() == [3, 1]
    assert found.sums["flag"].tolist() == [1, 0]


def test_no_samples_are_no_units() -> None:
    assert Units(("x",)).sizes.tolist() == []
