"""The statistics against SciPy and scikit-learn, and by their properties."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from validation import statistics
from validation.moments import pair_moments

Pair = tuple[np.ndarray, np.ndarray]

VALUES = st.integers(-50, 50).map(lambda value: value / 8)  # Coarse, so that ties are common.
COLUMNS = st.integers(2, 40).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=VALUES)] * 2))
COUNTS = st.integers(2, 12).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 900))] * 2))


@given(COLUMNS)
def test_ks_is_that_of_scipy_ties_included(columns: Pair) -> None:
    expected = stats.ks_2samp(*columns, method="asymp").statistic
    assert statistics.ks_two_sample(*columns) == pytest.approx(expected, abs=1e-12)


@given(COLUMNS)
def test_ks_is_symmetric(columns: Pair) -> None:
    a, b = columns
    assert statistics.ks_two_sample(a, b) == statistics.ks_two_sample(b, a)


@given(COLUMNS, st.randoms(use_true_random=False))
def test_ks_does_not_see_the_order_of_samples(columns: Pair, random: Random) -> None:
    a, b = columns
    shuffled = b.copy()
    random.shuffle(shuffled)
    assert statistics.ks_two_sample(a, shuffled) == statistics.ks_two_sample(a, b)


def test_ks_of_float32_against_float64_compares_exactly() -> None:
    value = np.array([0.1])
    assert statistics.ks_two_sample(value.astype(np.float32), value) == 1.0


@pytest.mark.parametrize("n", [7, 50, 200, 2_000])
def test_ks_pvalue_is_the_exact_one_of_scipy(n: int) -> None:
    ranks = np.arange(n, dtype=float)
    for k in {n // 20 + 2, n // 8 + 2, n // 3, n}:
        scipys = stats.ks_2samp(ranks, ranks + k - 0.5, method="exact")
        assert scipys.statistic == pytest.approx(k / n)
        assert statistics.ks_pvalue(k / n, n) == pytest.approx(scipys.pvalue, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 10_000])
def test_ks_pvalue_of_the_smallest_gaps_is_one(n: int) -> None:
    assert statistics.ks_pvalue(0.0, n) == 1.0
    assert statistics.ks_pvalue(1 / n, n) == pytest.approx(1.0, abs=1e-9)  # No two samples without ties are nearer.


@pytest.mark.parametrize("d", [0.001, 0.004, 0.0061, 0.01])
def test_ks_pvalue_of_large_samples_is_near_that_of_scipy(d: float) -> None:
    n = 100_000
    assert statistics.ks_pvalue(d, n) == pytest.approx(stats.kstwo.sf(d, n // 2), abs=3e-3)


def test_ks_pvalue_goes_over_to_its_limit_without_a_jump() -> None:
    assert statistics.ks_pvalue(0.0192, 10_000) == pytest.approx(statistics.ks_pvalue(0.0192, 10_001), abs=2e-4)


def test_ks_of_counts_is_ks_of_values_that_sit_in_their_own_bins(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 30, 400), rng.integers(3, 30, 400)
    counts = (np.bincount(a, minlength=30), np.bincount(b, minlength=30))
    assert statistics.ks_of_counts(*counts) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)


@given(COUNTS)
def test_binned_kl_is_never_negative_and_that_of_scipy_with_half_counts(counts: Pair) -> None:
    reference, candidate = counts
    value = statistics.binned_kl(reference, candidate)
    assert value >= 0
    assert value == pytest.approx(stats.entropy(reference + 0.5, candidate + 0.5), abs=1e-12)


@given(COUNTS)
def test_binned_kl_of_a_histogram_with_itself_is_zero(counts: Pair) -> None:
    assert statistics.binned_kl(counts[0], counts[0]) == 0


def test_binned_kl_of_a_candidate_with_an_empty_bin_is_finite() -> None:
    value = statistics.binned_kl(np.array([100, 100]), np.array([200, 0]))
    assert 1 < value < 10


def test_decile_edges_put_a_tenth_in_every_bin(rng: np.random.Generator) -> None:
    values = rng.normal(size=5_000)
    edges = statistics.decile_edges(values)
    counts = np.bincount(np.searchsorted(edges, values, side="right"))
    assert counts.tolist() == [500] * 10


def test_decile_edges_stay_clear_of_repeated_values() -> None:
    grades = np.repeat([1.0, 2.0, 3.0], 100)
    assert statistics.decile_edges(grades).tolist() == [1.5, 2.5]


def test_one_value_that_holds_nine_tenths_still_gets_an_edge() -> None:
    sparse = np.concatenate([np.zeros(95), np.ones(5)])
    assert statistics.decile_edges(sparse).tolist() == [0.5]


def test_a_constant_has_no_decile_edges() -> None:
    assert statistics.decile_edges(np.full(10, 0.3)).size == 0


@given(COLUMNS)
def test_pearson_is_that_of_scipy(columns: Pair) -> None:
    a, b = columns
    moments = pair_moments(a, b)
    value = statistics.pearson_from_moments(moments.reference_m2, moments.candidate_m2, moments.cross)
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        assert value == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-9)


@given(COLUMNS, st.floats(0.01, 100), st.floats(-100, 100))
def test_pearson_does_not_see_scale_or_shift(columns: Pair, scale: float, shift: float) -> None:
    a, b = columns
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return
    plain, moved = pair_moments(a, b), pair_moments(a, b * scale + shift)
    r = statistics.pearson_from_moments(plain.reference_m2, plain.candidate_m2, plain.cross)
    assert statistics.pearson_from_moments(moved.reference_m2, moved.candidate_m2, moved.cross) == pytest.approx(
        r, abs=1e-7
    )


def test_pearson_without_variation_is_undefined() -> None:
    assert statistics.pearson_from_moments(0.0, 4.0, 0.0) is None


def test_softmax_kl_is_that_of_scipy(rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 3, (40, 5, 7)), rng.normal(0, 3, (40, 5, 7))
    expected = stats.entropy(special.softmax(a, axis=-1), special.softmax(b, axis=-1), axis=-1)
    np.testing.assert_allclose(statistics.softmax_kl(a, b), expected, rtol=1e-9)


def test_softmax_kl_does_not_overflow() -> None:
    kl = statistics.softmax_kl(np.array([[1e4, -1e4, 0.0]]), np.array([[9e3, -1e4, 0.0]]))
    assert kl.tolist() == [0.0]


@given(arrays(np.float64, (4, 3), elements=st.floats(-50, 50)), st.floats(-50, 50))
def test_softmax_kl_does_not_see_a_shift_of_the_logits(logits: np.ndarray, shift: float) -> None:
    np.testing.assert_allclose(statistics.softmax_kl(logits, logits + shift), 0, atol=1e-9)


def test_probability_kl_is_that_of_scipy(rng: np.random.Generator) -> None:
    a, b = rng.dirichlet(np.ones(4), 50), rng.dirichlet(np.ones(4), 50)
    np.testing.assert_allclose(statistics.probability_kl(a, b), stats.entropy(a, b, axis=-1), rtol=1e-6)


def test_probability_kl_of_a_class_ruled_out_is_large_and_finite() -> None:
    kl = statistics.probability_kl(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert 20 < kl.item() < 28
