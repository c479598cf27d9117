"""Moments against scikit-learn, and merged in any order."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

from validation.moments import PairMoments, merge_moments, pair_moments

NUMBERS = st.floats(-1e3, 1e3, width=32)
PAIRS = st.integers(1, 30).flatmap(lambda n: arrays(np.float32, (2, n), elements=NUMBERS))


@given(PAIRS)
def test_errors_are_those_of_scikit_learn(pairs: np.ndarray) -> None:
    reference, candidate = pairs.astype(np.float64)
    moments = pair_moments(*pairs)
    assert moments.error_sum / moments.count == pytest.approx(metrics.mean_absolute_error(reference, candidate))
    assert moments.error_squares / moments.count == pytest.approx(metrics.mean_squared_error(reference, candidate))
    assert moments.error_max == metrics.max_error(reference, candidate)


@given(PAIRS, st.lists(st.integers(0, 30), max_size=5))
def test_moments_of_parts_merge_to_the_moments_of_the_whole(pairs: np.ndarray, cuts: list[int]) -> None:
    merged = PairMoments()
    for part in np.split(pairs, sorted(min(cut, pairs.shape[1]) for cut in cuts), axis=1):
        merged = merge_moments(merged, pair_moments(*part))
    whole = pair_moments(*pairs)
    np.testing.assert_allclose(astuple(merged), astuple(whole), rtol=1e-9, atol=1e-6)
    assert merged.count == whole.count


@given(PAIRS, PAIRS)
def test_merging_does_not_see_the_order(a: np.ndarray, b: np.ndarray) -> None:
    one, other = pair_moments(*a), pair_moments(*b)
    forth, back = astuple(merge_moments(one, other)), astuple(merge_moments(other, one))
    np.testing.assert_allclose(forth, back, rtol=1e-9, atol=1e-6)


def test_moments_of_nothing_change_nothing() -> None:
    moments = pair_moments(np.array([1.0, 2.0]), np.array([1.5, 2.0]))
    assert merge_moments(moments, pair_moments(np.empty(0), np.empty(0))) == moments
    assert merge_moments(PairMoments(), moments) == moments


def test_a_large_mean_does_not_drown_a_small_variance() -> None:
    offset, small = 1e8, np.linspace(0, 1, 1_000)
    merged = PairMoments()
    for part in np.split(offset + small, 50):
        merged = merge_moments(merged, pair_moments(part, part))
    assert merged.reference_m2 / merged.count == pytest.approx(np.var(small), rel=1e-6)
