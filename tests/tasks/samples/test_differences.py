from __future__ import annotations

import numpy as np
import pytest

from tasks.samples.differences import allowed_difference, difference_in_words, largest_difference

KEYS = np.arange(1000, dtype=np.int64) + 2**40


def test_of_floats_it_is_the_largest_difference() -> None:
    right = np.array([1.0, 200.0], np.float32)
    assert largest_difference(right + np.float32(0.5), right) == 0.5
    assert allowed_difference(right) == pytest.approx(1e-5 + 1e-4 * 200)
    assert difference_in_words(0.5, right) == "0.5"


def test_of_whole_numbers_it_is_the_share_that_differs_however_large_they_are() -> None:
    """Within 1e-4 of the largest value, a graph that is off by one everywhere passed for right."""
    off = KEYS.copy()
    off[:20] += 1
    assert largest_difference(KEYS + 1, KEYS) == 1
    assert largest_difference(off, KEYS) == pytest.approx(0.02)
    assert largest_difference(KEYS.copy(), KEYS) == 0
    assert (allowed_difference(KEYS), allowed_difference(KEYS, slack=10)) == (0.001, 0.01)
    assert difference_in_words(0.02, KEYS) == "2 % of its elements"


def test_of_true_and_false_it_is_the_share_that_differs() -> None:
    right = np.array([True, False, True, True])
    assert largest_difference(~right, right) == 1
    assert largest_difference(right, right) == 0
    assert largest_difference(right[:0], right[:0]) == 0
