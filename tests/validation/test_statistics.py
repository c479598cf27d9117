"""The statistics against SciPy, and by their properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats
from scipy.spatial import distance

from validation import statistics

Pair = tuple[np.ndarray, np.ndarray]
COUNTS = st.integers(2, 12).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 900))] * 2))
LOGITS = arrays(np.float64, (4, 5), elements=st.floats(-30, 30))


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
    assert 1 < statistics.binned_kl(np.array([100, 100]), np.array([200, 0])) < 10


def test_decile_edges_put_a_tenth_in_every_bin(rng: np.random.Generator) -> None:
    values = rng.normal(size=5_000)
    edges = statistics.decile_edges(values)
    assert np.bincount(np.searchsorted(edges, values, side="right")).tolist() == [500] * 10
    np.testing.assert_allclose(edges, np.quantile(values, np.arange(1, 10) / 10, method="midpoint"), atol=0.01)


def test_decile_edges_stay_clear_of_repeated_values() -> None:
    assert statistics.decile_edges(np.repeat([1.0, 2.0, 3.0], 100)).tolist() == [1.5, 2.5]


def test_one_value_that_holds_nine_tenths_still_gets_an_edge() -> None:
    assert statistics.decile_edges(np.concatenate([np.zeros(95), np.ones(5)])).tolist() == [0.5]
    assert statistics.decile_edges(np.concatenate([np.zeros(5), np.ones(95)])).tolist() == [0.5]


def test_a_constant_has_no_decile_edges() -> None:
    assert statistics.decile_edges(np.full(10, 0.3)).size == 0


@given(LOGITS)
def test_log_softmax_is_that_of_scipy_and_does_not_see_a_shift(logits: np.ndarray) -> None:
    np.testing.assert_allclose(statistics.log_softmax(logits), special.log_softmax(logits, axis=-1), atol=1e-9)
    np.testing.assert_allclose(statistics.log_softmax(logits + 500), statistics.log_softmax(logits), atol=1e-9)


def test_log_softmax_does_not_overflow() -> None:
    assert statistics.log_softmax(np.array([1e4, -1e4, 0.0])).tolist() == [0.0, -2e4, -1e4]


def test_log_probabilities_are_clipped_and_add_up_to_one() -> None:
    found = statistics.log_probabilities(np.array([[0.0, 0.2, 0.8], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-12)
    assert found[0, 0] == pytest.approx(np.log(statistics.SMALLEST_PROBABILITY))
    assert np.exp(found[1]) == pytest.approx([1 / 3] * 3)


@given(LOGITS, LOGITS)
def test_divergences_are_those_of_scipy(a: np.ndarray, b: np.ndarray) -> None:
    p, q = special.softmax(a, axis=-1), special.softmax(b, axis=-1)
    logs = statistics.log_softmax(a), statistics.log_softmax(b)
    np.testing.assert_allclose(statistics.categorical_kl(*logs), special.rel_entr(p, q).sum(axis=-1), atol=1e-9)
    # SciPy gives the root of it, NaN where rounding takes it below 0.
    with np.errstate(invalid="ignore"):
        squares = np.nan_to_num(distance.jensenshannon(p, q, axis=1) ** 2)
    np.testing.assert_allclose(statistics.jensen_shannon(*logs), squares, atol=1e-9)


@given(LOGITS, LOGITS)
def test_jensen_shannon_is_symmetric_and_at_most_ln_2(a: np.ndarray, b: np.ndarray) -> None:
    logs = statistics.log_softmax(a), statistics.log_softmax(b)
    found = statistics.jensen_shannon(*logs)
    np.testing.assert_allclose(found, statistics.jensen_shannon(*reversed(logs)), atol=1e-12)
    assert (found <= np.log(2) + 1e-12).all()
    assert (found >= 0).all()


def test_kl_of_a_class_ruled_out_is_large_and_finite() -> None:
    logs = (statistics.log_probabilities(np.array(side)) for side in ([0.0, 1.0], [1.0, 0.0]))
    assert 20 < statistics.categorical_kl(*logs).item() < 28
