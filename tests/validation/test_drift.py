"""Drift of independent samples: against SciPy and hand-made counts, and how often its bounds are wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from validation.directions import combine
from validation.drift import (
    KS_LIMIT,
    PSI_LIMIT,
    UNSEEN_LIMIT,
    Drift,
    TokenCounts,
    compare,
    quantile_edges,
    stratum_weights,
    unseen_tokens,
)
from validation.statistics import decile_edges

GRADES = arrays(np.float32, st.integers(1, 90), elements=st.integers(0, 6).map(float))


def one(calibration: np.ndarray, sample: np.ndarray, **options: object) -> Drift:
    return compare(np.asarray(calibration)[:, None], np.asarray(sample)[:, None], **options)[0]  # type: ignore[arg-type]


def counted(*samples: str) -> TokenCounts:
    """A sample a word, a token a letter."""
    letters = sorted(set("".join(samples)))
    return TokenCounts(
        np.array([ord(letter) for letter in letters], dtype=np.int64),
        np.array(["".join(samples).count(letter) for letter in letters], dtype=np.int64),
        np.array([sum(letter in word for word in samples) for letter in letters], dtype=np.int64),
        len(samples),
    )


def test_psi_is_what_the_counts_of_the_deciles_give_by_hand(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(0.4, 1, 300), rng.normal(size=1_000)
    edges = [-np.inf, *np.quantile(sample, np.arange(1, 10) / 10), np.inf]
    p, q = (np.histogram(side, edges)[0] + 0.5 for side in (calibration, sample))
    p, q = p / p.sum(), q / q.sum()
    assert one(calibration, sample).psi == pytest.approx(float(sum((p - q) * np.log(p / q))), rel=1e-9)


def test_psi_of_two_samples_of_one_source_is_on_average_what_yurdakul_expects(rng: np.random.Generator) -> None:
    found = compare(rng.normal(size=(500, 400)), rng.normal(size=(2_000, 400)))
    assert np.mean([each.psi for each in found]) == pytest.approx(9 * (1 / 500 + 1 / 2_000), rel=0.1)


def test_d_is_that_of_scipy_less_what_lies_inside_a_bin(rng: np.random.Generator) -> None:
    for shift in (0.0, 0.3, 1.0):
        calibration, sample = rng.normal(shift, 1, 700), rng.standard_t(2, 3_000)
        exact = stats.ks_2samp(calibration, sample).statistic
        assert exact - 2 / 64 <= one(calibration, sample).ks <= exact + 1e-12


@given(GRADES, GRADES)
def test_d_of_few_distinct_values_is_exactly_that_of_scipy_or_misses_a_rare_one(a: np.ndarray, b: np.ndarray) -> None:
    found, pooled = one(a, b).ks, np.concatenate([a, b])
    with np.errstate(divide="ignore"):  # SciPy's p-value of one sample against one.
        exact = stats.ks_2samp(a, b, method="asymp").statistic
    assert found <= exact + 1e-12
    if np.unique(pooled, return_counts=True)[1].min() > pooled.size / 64:
        assert found == pytest.approx(exact)


@given(GRADES, GRADES)
def test_bounds_lie_between_nothing_and_the_estimate(a: np.ndarray, b: np.ndarray) -> None:
    found = one(a, b)
    assert 0 <= found.psi_low <= found.psi
    assert 0 <= found.ks_low <= found.ks <= 1
    assert (found.n_set, found.n_sample) == (a.size, b.size)


@given(GRADES)
def test_a_sample_is_like_itself(a: np.ndarray) -> None:
    assert (one(a, a).psi, one(a, a).ks) == (0, 0)


def test_bins_never_split_equal_values_and_a_frequent_one_is_alone() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [640, 1, 1, 638])
    assert quantile_edges(values).tolist() == [0.5, 2.5]
    assert quantile_edges(np.zeros(9)).tolist() == []


def test_a_constant_sample_is_unlike_a_set_that_lies_elsewhere() -> None:
    assert one(np.zeros(50), np.zeros(90)) == Drift(psi=0, psi_low=0, ks=0, ks_low=0, n_set=50, n_sample=90)
    assert one(np.full(50, 2.0), np.ones(90)).psi_low > PSI_LIMIT
    assert one(np.full(50, 2.0), np.ones(90)).ks == 1


@pytest.mark.parametrize(("n", "m"), [(30, 120), (90, 600), (500, 2_000)])
def test_bounds_exceed_the_truth_in_at_most_one_draw_of_twenty(rng: np.random.Generator, n: int, m: int) -> None:
    shift, draws = 0.5, 400
    tenths = np.diff(stats.norm.cdf([-np.inf, *stats.norm.ppf(np.arange(1, 10) / 10) + shift, np.inf]))
    psi, ks = float(sum((tenths - 0.1) * np.log(tenths / 0.1))), 2 * stats.norm.cdf(shift / 2) - 1
    found = compare(rng.normal(size=(n, draws)), rng.normal(-shift, 1, (m, draws)), comparisons=1)
    assert np.mean([each.psi_low > psi for each in found]) <= 0.07  # Of 400 draws, 5 % and two standard errors.
    assert np.mean([each.ks_low > ks for each in found]) <= 0.07


def test_of_many_features_of_one_source_hardly_ever_one_is_different(rng: np.random.Generator) -> None:
    sides = [(rng.standard_t(3, (60, 160)), rng.standard_t(3, (300, 160))) for _ in range(20)]
    different = [any(each.ks_low or each.psi_low for each in compare(*pair)) for pair in sides]
    assert sum(different) <= 4  # 5 % of 20, and three standard errors.


def test_a_set_of_90_that_lies_elsewhere_is_found(rng: np.random.Generator) -> None:
    found = one(rng.normal(1.5, 1, 90), rng.normal(size=600))
    assert found.unlike
    assert found.ks_low > KS_LIMIT
    assert found.psi_low > PSI_LIMIT


def test_a_missing_tenth_shows_in_psi_not_in_d(rng: np.random.Generator) -> None:
    sample = np.concatenate([rng.normal(size=9_000), rng.normal(8, 1, 1_000)])
    found = one(rng.normal(size=2_000), sample)
    assert found.psi_low > PSI_LIMIT
    assert found.ks == pytest.approx(0.1, abs=0.02)


def test_equal_weights_change_nothing(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(0.6, 1, (150, 3)), rng.normal(size=(900, 3))
    assert compare(calibration, sample, np.full(150, 7.0)) == compare(calibration, sample)


def test_a_set_drawn_equally_by_stratum_is_like_the_traffic_by_weight_alone(rng: np.random.Generator) -> None:
    of_set, of_sample = np.repeat([0, 1], 400), rng.choice(2, 5_000, p=[0.95, 0.05])
    calibration, sample = rng.normal(3 * of_set), rng.normal(3 * of_sample)
    weights = stratum_weights(of_set.astype(str).tolist(), of_sample.astype(str).tolist())
    assert one(calibration, sample).unlike
    assert not one(calibration, sample, weights=weights).unlike


def test_weighted_bounds_know_how_little_few_heavy_samples_say(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(0.8, 1, 1_000), rng.normal(size=5_000)
    heavy = one(calibration, sample, weights=np.where(np.arange(1_000) < 20, 1e6, 1.0))
    alone = one(calibration[:20], sample)
    assert (heavy.psi_low, heavy.ks_low) == pytest.approx((alone.psi_low, alone.ks_low), abs=0.05)
    assert heavy.ks_low < one(calibration, sample).ks_low


def test_a_sample_of_weight_zero_does_not_count(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(size=200), rng.normal(size=900)
    weights = np.where(np.arange(200) < 120, 1.0, 0.0)
    assert one(calibration, sample, weights=weights) == one(calibration[:120], sample)


def test_a_bound_does_not_depend_on_the_other_features(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(0.7, 1, (200, 40)), rng.normal(size=(800, 40))
    together = compare(calibration, sample)
    alone = [compare(calibration[:, [j]], sample[:, [j]], comparisons=40)[0] for j in range(40)]
    assert together == alone


def test_thinning_moves_edges_and_not_counts(rng: np.random.Generator) -> None:
    calibration, sample = rng.normal(0.1, 1, 60_000), rng.normal(size=70_000)
    p, q = (np.histogram(side, [-np.inf, *decile_edges(sample), np.inf])[0] for side in (calibration, sample))
    exact = float(np.sum((p / p.sum() - q / q.sum()) * np.log((p / p.sum()) / (q / q.sum()))))
    assert one(calibration, sample).psi == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("calibration", "sample", "weights", "says"),
    [
        (np.ones((3, 2)), np.ones((3, 1)), None, r"must be \[n, f\]"),
        (np.ones((0, 2)), np.ones((3, 2)), None, "0 samples in the set, 3 in the sample"),
        (np.ones((3, 2)), np.array([[1, np.nan], [1, 2]]), None, r"1 features of the sample hold NaN.*\[1\]"),
        (np.ones((3, 2)), np.ones((3, 2)), np.array([1.0, -1.0, 1.0]), "one number ≥ 0 for each of 3"),
        (np.ones((3, 2)), np.ones((3, 2)), np.array([1.0, np.nan, 1.0]), "one number ≥ 0"),
        (np.ones((3, 2)), np.ones((3, 2)), np.zeros(3), "not all 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    calibration: np.ndarray, sample: np.ndarray, weights: np.ndarray | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        compare(calibration, sample, weights)


def test_weights_give_strata_the_shares_of_the_traffic_with_mean_one() -> None:
    weights = stratum_weights(["a", "a", "b", "b", "only set"], ["a", "a", "a", "b", "only traffic"])
    assert weights.mean() == pytest.approx(1)
    assert weights[:2].sum() / weights[2:4].sum() == pytest.approx(3)
    assert weights[4] == 0


def test_weights_of_strata_without_a_name_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set \(quiet\) and the sample \(bus, street\) share no stratum"):
        stratum_weights(["quiet"], ["street", "bus"])


def test_a_shift_spread_over_many_features_shows_in_their_joint_direction(rng: np.random.Generator) -> None:
    missing = rng.uniform(size=3_000) < 0.2
    calibration, sample = rng.normal(size=(400, 6)), rng.normal(2.0 * missing[:, None], 1, (3_000, 6))
    combined = combine(calibration, sample)
    assert not any(each.unlike for each in compare(calibration, sample))
    assert compare(combined.calibration, combined.sample)[0].unlike
    assert np.all(combined.loadings[0] > 0.3)


def test_directions_are_of_unit_length_and_at_right_angles(rng: np.random.Generator) -> None:
    sides = rng.standard_cauchy((50, 5)), rng.standard_cauchy((200, 5))
    loadings = combine(*sides, count=3).loadings
    assert loadings @ loadings.T == pytest.approx(np.eye(3), abs=1e-5)


def test_one_feature_has_no_joint_direction_and_a_constant_one_adds_nothing(rng: np.random.Generator) -> None:
    assert combine(rng.normal(size=(9, 1)), rng.normal(size=(9, 1))).calibration.shape == (9, 0)
    calibration, sample = (np.column_stack([rng.normal(size=n), np.ones(n)]) for n in (40, 80))
    assert combine(calibration, sample, count=1).loadings.tolist() == [[1.0, 0.0]]


def test_unseen_shares_are_those_counted_by_hand() -> None:
    found = unseen_tokens(counted("aab", "abc", "dd"), counted("ax", "xyab", "cccc"))
    assert found.share == pytest.approx(3 / 10)
    assert found.tokens == 2
    assert found.expected == pytest.approx(3 / 8)  # c once, and d twice in one sample.
    assert found.low == 0


def test_samples_of_one_vocabulary_have_no_more_unseen_than_expected(rng: np.random.Generator) -> None:
    alphabet = [chr(code) for code in range(1_000, 3_000)]
    shares = 1 / np.arange(1, 2_001)
    words = ["".join(rng.choice(alphabet, 40, p=shares / shares.sum())) for _ in range(360)]
    found = unseen_tokens(counted(*words[:60]), counted(*words[60:]))
    assert found.share == pytest.approx(found.expected, rel=0.15)
    assert found.share > UNSEEN_LIMIT
    assert found.low <= UNSEEN_LIMIT


def test_another_vocabulary_is_found_and_its_bound_is_made_of_the_exact_ones() -> None:
    found = unseen_tokens(counted(*["ab"] * 100), counted(*["ab"] * 320, *["xy"] * 80))
    below = 0.2 - stats.binomtest(80, 400, alternative="greater").proportion_ci(0.95).low
    above = stats.binomtest(0, 100, alternative="less").proportion_ci(0.95).high
    assert found.low > UNSEEN_LIMIT
    assert found.low == pytest.approx(0.2 - math.hypot(below, above))


def test_counts_of_shards_add_up() -> None:
    whole = counted("ab", "bcc", "", "zz")
    total = TokenCounts.total([counted("ab"), counted("bcc", ""), counted("zz")])
    for name in ("tokens", "occurrences", "spread", "samples"):
        np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))


def test_no_tokens_are_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="0 occurrences in the set, 2 in the sample"):
        unseen_tokens(TokenCounts.total([]), counted("ab"))
