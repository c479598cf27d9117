"""D, the Wasserstein distance and quantiles: values against SciPy, bounds against exact ones and by simulation."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from validation.distributions import (
    ks_distance,
    ks_estimate,
    quantile_interval,
    sample_quantile,
    smallest_n,
    straddling,
    wasserstein_terms,
)
from validation.reservoir import sample_hashes

Pair = tuple[np.ndarray, np.ndarray]
VALUES = st.integers(-50, 50).map(lambda value: value / 8)  # Coarse, so that ties are common.
COLUMNS = st.integers(1, 40).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=VALUES)] * 2))


def halves(n: int) -> np.ndarray:
    return sample_hashes(0, n) % np.uint64(2) == 0


def bounds_of_d(r: np.ndarray, c: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    found = ks_estimate(r, c, halves(r.size), confidence)[1]
    return found.low, found.high


def distance(r: np.ndarray, c: np.ndarray) -> float:
    return wasserstein_terms(r, c, np.ones(r.size, dtype=bool)).mean()


@pytest.mark.filterwarnings("ignore:ks_2samp")  # that its p-value is not exact
@given(COLUMNS)
def test_d_is_that_of_scipy_ties_included(columns: Pair) -> None:
    expected = stats.ks_2samp(*columns, method="exact").statistic
    assert ks_distance(*columns) == pytest.approx(expected, abs=1e-12)


@given(COLUMNS)
def test_the_gaps_are_the_difference_of_the_distribution_functions(columns: Pair) -> None:
    r, c = columns
    found = straddling(r, c)
    expected = [np.mean(c <= point) - np.mean(r <= point) for point in found.points]
    np.testing.assert_allclose(found.gaps, expected, atol=1e-12)
    # Counted as pairs that straddle a point, not as values below it.
    assert found.candidate_below.tolist() == [int(((c <= x) & (r > x)).sum()) for x in found.points]
    assert found.reference_below.tolist() == [int(((r <= x) & (c > x)).sum()) for x in found.points]


@given(COLUMNS, st.randoms(use_true_random=False))
def test_d_and_the_distance_do_not_see_how_samples_are_paired(columns: Pair, random: Random) -> None:
    r, c = columns
    shuffled = c.copy()
    random.shuffle(shuffled)
    assert ks_distance(r, shuffled) == ks_distance(r, c)
    assert distance(r, shuffled) == pytest.approx(distance(r, c), abs=1e-9)


def test_d_of_float32_against_float64_compares_exactly() -> None:
    value = np.array([0.1])
    assert ks_distance(value.astype(np.float32), value) == 1.0


@given(COLUMNS)
def test_the_distance_is_that_of_scipy(columns: Pair) -> None:
    assert distance(*columns) == pytest.approx(stats.wasserstein_distance(*columns), abs=1e-9)


def test_a_potential_of_one_half_has_slope_one_on_the_other() -> None:
    rng = np.random.default_rng(0)
    r, c = rng.normal(size=(2, 400))
    terms = wasserstein_terms(r, c, halves(400))
    assert (np.abs(terms) <= np.abs(c - r) + 1e-12).all()
    assert terms[halves(400)].mean() == pytest.approx(
        stats.wasserstein_distance(r[halves(400)], c[halves(400)]), abs=1e-9
    )


@given(COLUMNS)
def test_bounds_of_d_hold_it_and_stay_in_0_to_1(columns: Pair) -> None:
    low, high = bounds_of_d(*columns)
    assert 0 <= low <= 1
    assert ks_distance(*columns) <= high + 1e-12
    assert high <= 1
    assert bounds_of_d(columns[1], columns[0]) == pytest.approx((low, high))


@pytest.mark.parametrize("straddle", [0, 1, 5, 40])
@pytest.mark.parametrize("n", [200, 2_000])
def test_where_all_pairs_straddle_one_point_upwards_the_bound_is_that_of_a_proportion(straddle: int, n: int) -> None:
    r, c = np.zeros(n), (np.arange(n) < straddle).astype(float)
    exact = proportion_confint(straddle, n, alpha=0.1, method="beta")[1]
    assert bounds_of_d(r, c)[1] == pytest.approx(exact, rel=0.08)
    assert bounds_of_d(r, c)[1] >= 0.98 * exact


def test_a_certain_shift_of_all_is_bounded_below_too() -> None:
    r = np.random.default_rng(2).random(2_000)
    low, high = bounds_of_d(r, r + 0.3)
    assert low > 0.25
    assert low < ks_distance(r, r + 0.3) < high < 0.35


def test_one_pair_gives_no_lower_bound() -> None:
    assert ks_estimate(np.zeros(1), np.ones(1), np.array([True]), 0.95)[1].low == 0


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1])
def test_each_bound_of_d_is_wrong_in_about_one_draw_of_twenty_at_most(shift: float) -> None:
    rng = np.random.default_rng(int(1_000 * shift))
    true = 2 * stats.norm.cdf(shift / 2) - 1
    too_low = too_high = 0
    for _ in range(400):
        r = rng.normal(size=400)
        c = shift + 0.99 * r + np.sqrt(1 - 0.99**2) * rng.normal(size=400)
        low, high = bounds_of_d(r, c)
        too_low += high < true
        too_high += low > true
    assert too_low <= 30  # 20 of 400 are allowed, and 30 are three deviations more.
    assert too_high <= 30


@pytest.mark.parametrize("n", [30, 299, 1_000])
@pytest.mark.parametrize("quantile", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_bounds_of_a_quantile_are_the_order_statistics_of_clopper_and_pearson(
    n: int, quantile: float, confidence: float
) -> None:
    found = quantile_interval(np.random.default_rng(0).permutation(n) + 1.0, quantile, confidence)
    counts = np.arange(n + 1)
    least, most = proportion_confint(counts, n, alpha=2 * (1 - confidence), method="beta")
    # Rank k bounds the quantile from above where k of n exclude a share as small as it, and from below likewise.
    above = counts[1:][least[1:] >= quantile]
    below = counts[1:][most[:-1] <= quantile]
    assert found.high == (above[0] if above.size else None)
    assert found.low == (below[-1] if below.size else None)
    assert (found.low_seen, found.high_seen) == (found.low, found.high)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("quantile", [0.99, 0.01, 0.5])
def test_the_smallest_n_is_the_first_that_gives_a_bound(quantile: float, confidence: float) -> None:
    n = smallest_n(quantile, confidence)
    far = "low" if quantile < 0.5 else "high"
    assert getattr(quantile_interval(np.arange(n), quantile, confidence), far) is not None
    assert getattr(quantile_interval(np.arange(n - 1), quantile, confidence), far) is None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=250), st.sampled_from([0.01, 0.25, 0.5, 0.99]))
def test_a_sample_quantile_is_that_of_numpy(numbers: list[int], quantile: float) -> None:
    values = np.array(numbers, dtype=float)
    assert sample_quantile(values, quantile) == np.quantile(values, quantile, method="inverted_cdf")


@pytest.mark.parametrize("n", [100, 200, 300, 2_400])
def test_a_sample_quantile_at_a_whole_rank_is_that_rank(n: int) -> None:
    assert sample_quantile(np.arange(1.0, n + 1), 0.99) == round(0.99 * n)
    assert sample_quantile(np.arange(1.0, n + 1), 0.01) == round(0.01 * n)


def test_a_rank_that_rounding_lifts_just_above_a_whole_number_is_that_number() -> None:
    assert 0.07 * 100 > 7
    assert sample_quantile(np.arange(1.0, 101.0), 0.07) == 7
