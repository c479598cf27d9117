"""Bounds: exact for a proportion, on the right side for all, seeded, and careful with what is undefined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from validation import bootstrap
from validation.bootstrap import NOWHERE, Bootstrap, Draws, exactly
from validation.units import units_of


def draws(numbers: object, **plan: float) -> Draws:
    return Bootstrap(**({"resamples": 400} | plan)).draw(units_of({"x": np.asarray(numbers, dtype=float)}))


@pytest.mark.parametrize(("wrong", "n"), [(0, 50), (1, 200), (3, 300), (40, 100), (100, 100), (12, 2_400)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_bounds_of_a_proportion_are_those_of_clopper_and_pearson(wrong: int, n: int, confidence: float) -> None:
    low, high = proportion_confint(wrong, n, alpha=2 * (1 - confidence), method="beta")
    found = draws(np.arange(n) < wrong, confidence=confidence, resamples=20_000).interval(
        lambda m: m["x"], lowest={"x": 0.0}, highest={"x": 1.0}
    )
    share = wrong / n
    # 20,000 resamples know a bound to 2 or 3 % of its distance from the share.
    assert found.high == pytest.approx(high, abs=0.04 * (high - share) + 1e-12)
    assert found.low == pytest.approx(low, abs=0.04 * (share - low) + 1e-12)


def test_nobody_wrong_is_bounded_by_the_rule_of_three() -> None:
    found = draws(np.zeros(300), resamples=20_000).interval(lambda m: m["x"], highest={"x": 1.0})
    assert found.high == pytest.approx(3 / 300, rel=0.04)
    assert (found.low, found.low_seen, found.high_seen) == (0, 0, 0)


def test_bounds_of_a_mean_are_near_those_of_student_where_that_is_right(rng: np.random.Generator) -> None:
    sample = rng.normal(5, 1, 2_000)
    found = draws(sample, resamples=10_000).interval(lambda m: m["x"])
    low, high = stats.t.interval(0.9, sample.size - 1, sample.mean(), stats.sem(sample))
    assert found.low_seen == pytest.approx(low, abs=0.003)
    assert found.high_seen == pytest.approx(high, abs=0.003)
    assert found.low < found.low_seen < sample.mean() < found.high_seen < found.high


def test_a_rare_large_error_lifts_the_bound_well_above_what_resamples_alone_say() -> None:
    found = draws(np.arange(300) == 7, resamples=4_000).interval(lambda m: m["x"])
    assert found.high > 1.3 * found.high_seen


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60))
def test_the_value_lies_between_its_bounds_and_the_unseen_one_only_widens(numbers: list[int]) -> None:
    found = draws(numbers, resamples=200)
    value, interval = found.value(lambda m: m["x"]), found.interval(lambda m: m["x"])
    assert value == pytest.approx(np.mean(numbers))
    assert interval.low <= value <= interval.high
    assert interval.low_seen <= value <= interval.high_seen
    if min(numbers) == max(numbers):
        assert (interval.low, interval.high) == pytest.approx((value, value))
    else:
        assert interval.low < interval.low_seen or interval.high > interval.high_seen


@pytest.mark.parametrize(("confidence", "beyond"), [(0.95, 19), (0.9, 39), (0.6, 159)])
def test_a_bound_is_a_draw_with_no_more_beyond_it_than_the_confidence_allows(confidence: float, beyond: int) -> None:
    seen: list[np.ndarray] = []

    def mean(m: dict[str, np.ndarray]) -> np.ndarray:
        seen.append(np.atleast_1d(m["x"]))
        return m["x"]

    found = draws(np.arange(50), confidence=confidence, resamples=400).interval(mean)
    resamples = [each for each in seen if each.size == 400]
    highs = [(each > bound).sum() for each in resamples for bound in (found.high, found.high_seen) if bound in each]
    lows = [(each < bound).sum() for each in resamples for bound in (found.low, found.low_seen) if bound in each]
    assert highs == lows == [beyond, beyond]


def test_a_bound_is_never_on_the_near_side_of_the_value() -> None:
    # Two samples vary most as they are; every resample of them varies less.
    both = Bootstrap(resamples=200).draw(units_of({"x": np.array([0.0, 1.0]), "xx": np.array([0.0, 1.0])}))
    spread = both.interval(lambda m: m["xx"] - m["x"] ** 2)
    assert (spread.high, spread.high_seen) == (0.25, 0.25)
    turned = both.interval(lambda m: m["x"] ** 2 - m["xx"])
    assert (turned.low, turned.low_seen) == (-0.25, -0.25)


def test_more_confidence_and_fewer_samples_give_wider_bounds(rng: np.random.Generator) -> None:
    sample = rng.random(800)
    highs = [draws(sample, confidence=c, resamples=2_000).interval(lambda m: m["x"]).high for c in (0.8, 0.95, 0.99)]
    assert highs == sorted(highs)
    few = draws(sample[:80], resamples=2_000).interval(lambda m: m["x"])
    many = draws(sample, resamples=2_000).interval(lambda m: m["x"])
    assert few.high - few.low > 2 * (many.high - many.low)


def test_the_same_units_give_the_same_bounds_and_others_share_their_weights(rng: np.random.Generator) -> None:
    a, b = rng.random(100), rng.random(100)
    both = Bootstrap(resamples=300).draw(units_of({"a": a, "b": b}))
    assert both.interval(lambda m: m["a"]) == draws(a, resamples=300).interval(lambda m: m["x"])
    assert both.interval(lambda m: m["a"] - m["a"]) == exactly(0.0)


def test_pairs_stay_pairs(rng: np.random.Generator) -> None:
    a = rng.random(200)
    shifted = Bootstrap(resamples=200).draw(units_of({"a": a, "b": a + 0.25}))
    interval = shifted.interval(lambda m: m["b"] - m["a"])
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("block", [1, 150, 1 << 12])
def test_the_size_of_a_block_of_work_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    plain = draws(np.arange(100)).interval(lambda m: m["x"])
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    assert draws(np.arange(100)).interval(lambda m: m["x"]) == plain


def test_units_of_several_samples_weigh_as_many() -> None:
    numbers = np.random.default_rng(3).normal(2, 1, 40_000)
    found = draws(numbers, resamples=4_000).interval(lambda m: m["x"])
    deviation = stats.sem(numbers)
    assert found.high_seen - numbers.mean() == pytest.approx(1.645 * deviation, rel=0.08)


def test_a_number_left_out_of_what_is_known_of_the_unseen_is_the_mean() -> None:
    both = Bootstrap(resamples=200).draw(units_of({"x": np.zeros(50), "y": np.full(50, 3.0)}))
    y = both.interval(lambda m: m["y"], highest={"x": 1.0})
    assert (y.low, y.high) == pytest.approx((3.0, 3.0))
    assert both.interval(lambda m: m["x"] / m["y"], highest={"x": 3.0}).high > 0.02


def test_an_undefined_statistic_has_no_bounds() -> None:
    assert draws([0.0, 0.0]).interval(lambda m: 1 / m["x"]) == NOWHERE


def test_an_undefined_draw_counts_as_the_worst() -> None:
    found = draws(np.arange(100.0)).interval(lambda m: np.where(m["x"] < 52, m["x"], np.nan))
    assert found.high is None
    assert found.low is None or found.low <= 49.5
    assert found.low is None  # A fifth of the draws is undefined: they may be as low as can be.
