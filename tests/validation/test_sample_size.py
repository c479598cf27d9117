"""The number of samples that would decide: right by its own formula, and right when one takes so many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.validation.cases import measure, policy_of, rule, run
from validation.bootstrap import Bootstrap
from validation.comparison import Measurement
from validation.sample_size import needed_at_half, needed_samples
from validation.verdict import Outcome, decide


def measured(metric: str, value: float | None, *, n: int = 400, **bounds: float | None) -> Measurement:
    """Bounds that are left out are the value; those of what was seen are the bounds unless given."""
    low, high = bounds.get("low", value), bounds.get("high", value)
    return Measurement(
        output="out",
        column=None,
        metric=metric,
        value=value,
        low=low,
        high=high,
        low_seen=bounds.get("low_seen", low),
        high_seen=bounds.get("high_seen", high),
        n=n,
        note="",
    )


def needed(limits: dict[str, float], m: Measurement, confidence: float = 0.95) -> int | None:
    return needed_samples(rule(m.metric, **limits), m, confidence)


def at_half(limits: dict[str, float], m: Measurement, confidence: float = 0.95) -> int | None:
    return needed_at_half(rule(m.metric, **limits), m, confidence)


def test_four_times_the_samples_halve_what_was_seen() -> None:
    # The bound is 0.004 off, twice that must fit into 0.002 of room, and half the limit, 0.005, is more than that.
    for asked, margin in ((needed, 1.15 * np.log(6_400) / np.log(401)), (at_half, 1.5)):
        assert asked({"max": 0.01}, measured("mae", 0.008, high=0.012)) == pytest.approx(400 * 16, rel=0.02)
        found = asked({"min": 0.99}, measured("pearson", 0.992, low=0.988))
        assert found == pytest.approx(400 * 16 * margin, rel=0.03)
    assert needed({"within": 0.01}, measured("bias", 0.008, low=0.004, high=0.012)) == pytest.approx(6400, rel=0.02)
    assert needed({"within": 0.01}, measured("bias", -0.008, low=-0.012, high=-0.004)) == pytest.approx(6400, rel=0.02)


def test_a_better_value_asks_for_no_fewer_than_one_at_half_the_limit() -> None:
    # Twice 0.012 into 0.005.
    for value in (0.0, 0.002, 0.005):
        m = measured("mae", value, low=0.0, high=value + 0.012)
        assert at_half({"max": 0.01}, m) == pytest.approx(400 * 4.8**2, rel=0.02)
        assert needed({"max": 0.01}, m) == pytest.approx(400 * (0.024 / (0.01 - value)) ** 2, rel=0.05)


def test_what_nobody_has_seen_shrinks_with_n_itself() -> None:
    # Nothing seen varies; the unseen one costs 0.0075 at 400, and half the limit leaves 0.0005.
    m = measured("cosine", 0.9995, low=0.9995 - 0.0075, low_seen=0.9995)
    assert needed({"min": 0.999}, m) == pytest.approx(6_000, rel=0.02)
    assert at_half({"min": 0.999}, m) == pytest.approx(6_000 * 1.5, rel=0.02)


@pytest.mark.parametrize("limit", [0.999, 0.995, 0.99, 0.98])
def test_of_agreement_without_a_fault_it_is_the_least_number_that_can_show_the_limit(limit: float) -> None:
    # Clopper and Pearson: of n equal pairs, 0.05^(1/n) is shown.
    flawless = measured("top1_agreement", 1.0, n=320, low=0.05 ** (1 / 320), low_seen=1.0)
    assert needed({"min": limit}, flawless) == pytest.approx(np.log(0.05) / np.log(limit), rel=0.1)


def test_an_engine_at_half_its_limit_by_errors_that_no_pilot_saw_passes_in_nine_of_ten_draws() -> None:
    # The pilot saw none of those that cost 1 each, one in 2,000; the bound is that of Clopper and Pearson.
    n = at_half({"min": 0.999}, measured("top1_agreement", 1.0, low=1 - 0.0075, low_seen=1.0))
    wrong = np.arange(200)
    shown = stats.beta.ppf(0.95, wrong + 1, n - wrong) <= 0.001
    assert 0.9 <= stats.binom.pmf(wrong[shown], n, 0.0005).sum() <= 0.97


def test_a_root_of_means_is_planned_by_its_square() -> None:
    # The square's bound is 0.04 at 400 and may be 0.01, of which an engine at half the limit has a quarter.
    m = measured("rmse", 0.05, high=0.2 + 1e-12, high_seen=0.05)
    assert needed({"max": 0.1}, m) == pytest.approx(400 * (0.04 - 0.0025) / 0.0075, rel=0.06)


def test_a_quantile_asks_for_no_more_than_shows_a_share_beyond_its_limit() -> None:
    assert needed({"min": 0.995}, measured("cosine_p1", 0.997, n=300, low=-1.0)) == 2_800
    assert needed({"max": 0.01}, measured("p99_abs", 0.0099, n=400, high=0.02)) == 2_800


@pytest.mark.parametrize("limit", [0.999, 0.99, 0.98])
def test_a_share_is_planned_so_that_nine_in_ten_engines_at_half_the_limit_pass(limit: float) -> None:
    n = at_half({"min": limit}, measured("top1_agreement", 1.0, low=1 - 0.0075, low_seen=1.0))
    wrong = np.arange(n // 10)
    shown = stats.beta.ppf(0.95, wrong + 1, n - wrong) <= 1 - limit
    assert 0.9 <= stats.binom.pmf(wrong[shown], n, (1 - limit) / 2).sum() <= 0.97


def test_a_distance_is_planned_from_its_lower_bound() -> None:
    # D is 0.03 by noise alone: the limit may be met, though the value is beyond it.
    m = measured("ks", 0.03, low=0.0, high=0.06, high_seen=0.06)
    assert at_half({"max": 0.02}, m) == pytest.approx(400 * 36, rel=0.05)
    assert needed({"max": 0.02}, m) == pytest.approx(400 * 4.5**2, rel=0.05)
    kl = measured("kl", 0.03, low=0.0, high=0.04, high_seen=0.04)
    assert at_half({"max": 0.01}, kl) == pytest.approx(400 * 16, rel=0.02)  # its root shrinks with the root of n


def test_beyond_the_limit_it_is_the_number_that_shows_it() -> None:
    assert needed({"max": 0.01}, measured("mae", 0.012, low=0.008)) == pytest.approx(400 * 16, rel=0.02)
    assert needed({"min": 0.99}, measured("pearson", 0.988, high=0.992)) == pytest.approx(
        400 * 16 * 1.15 * np.log(6_400) / np.log(401), rel=0.03
    )
    assert needed({"within": 0.01}, measured("bias", -0.012, high=-0.008)) == pytest.approx(400 * 16, rel=0.02)
    assert needed({"within": 0.01}, measured("bias", 0.012, low=0.008)) == pytest.approx(400 * 16, rel=0.02)


@given(
    value=st.floats(0.005, 0.0099),
    seen=st.floats(0, 0.5),
    unseen=st.floats(0, 0.5),
    n=st.integers(10, 10_000),
)
def test_the_number_is_where_twice_what_was_seen_and_the_unseen_just_fit(
    value: float, seen: float, unseen: float, n: int
) -> None:
    m = measured("mae", value, n=n, low=0.0, high=value + seen + unseen, high_seen=value + seen)
    found = needed({"max": 0.01}, m)

    def reach(samples: float) -> float:
        return value + 2 * seen * (n / samples) ** 0.5 + unseen * n / samples

    if found is None:
        assert reach(1e9) > 0.01
    elif found > 0:
        assert reach(found) <= 0.01 + 1e-9
    if found is not None and found > 20:
        assert reach(found / 1.12) >= 0.01 - 1e-9  # Rounded up to two digits: at most a tenth too many.


def test_at_the_limit_no_number_decides() -> None:
    assert needed({"max": 0.01}, measured("mae", 0.01, low=0.008, high=0.012)) is None
    assert needed({"within": 0.01}, measured("bias", -0.01, low=-0.012, high=0.0)) is None


def test_nothing_is_told_of_what_has_no_value_or_no_bound() -> None:
    assert needed({"max": 0.01}, measured("mae", None)) is None
    assert needed({"max": 0.01}, measured("mae", 0.001, n=0)) is None
    assert needed({"max": 0.01}, measured("mae", 0.001, high=None)) is None
    assert needed({"min": 0.99}, measured("pearson", 0.999, low=None)) is None


def test_a_quantile_needs_at_least_as_many_as_bound_it() -> None:
    assert at_half({"max": 0.01}, measured("p99_abs", 0.001, n=100, high=None)) == 600
    assert needed({"max": 0.01}, measured("p99_abs", 0.001, n=100, high=None)) == 300
    assert at_half({"min": 0.9}, measured("cosine_p1", 0.95, n=100, low=None)) == 600
    assert at_half({"max": 0.01}, measured("p99_abs", 0.001, n=100, high=None), confidence=0.99) == 920
    assert needed({"max": 0.01}, measured("p99_abs", 0.001, n=400, high=0.0011)) >= 299
    assert needed({"max": 0.01}, measured("p99_abs", 0.001, n=400, high=None)) is None


def test_what_is_judged_as_observed_needs_no_more() -> None:
    assert needed({"max": 0.01}, measured("max_abs", 0.001, n=77, high=None)) == 77
    assert needed({"min": 0.05}, measured("ks_pvalue", 0.5, n=77, low=None, high=None)) == 77


@pytest.mark.parametrize(("n", "rounded"), [(104, 110), (1_234, 1_300), (99_001, 100_000), (57, 57)])
def test_the_number_has_two_digits(n: int, rounded: int) -> None:
    # With no unseen part: n_needed = n * (2 * seen / room)^2.
    m = measured("mae", 0.005, n=n, high=0.0075)
    assert needed({"max": 0.01}, m) == rounded


@pytest.mark.parametrize(
    ("metric", "limits", "few"),
    [
        ("mae", {"max": 0.05}, 40),
        ("bias", {"within": 0.02}, 40),
        ("pearson", {"min": 0.9}, 300),
        ("ks", {"max": 0.07}, 40),
    ],
)
def test_with_so_many_samples_the_rule_is_decided(metric: str, limits: dict[str, float], few: int) -> None:
    rng = np.random.default_rng(5)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        r = rng.beta(2, 3, n)
        return r, r + rng.normal(0, 0.05, n)

    plan = Bootstrap(resamples=400)
    policy = policy_of(rule(metric, **limits), min_samples=1, resamples=400)
    for _ in range(20):
        first = decide(policy, run(*draw(few), plan=plan)).rules[0]
        if first.outcome is Outcome.INCONCLUSIVE:
            break
    assert first.outcome is Outcome.INCONCLUSIVE
    assert first.needed > few
    enough = [decide(policy, run(*draw(max(first.needed, 300)), plan=plan)).outcome for _ in range(5)]
    assert enough.count(Outcome.PASS) >= 4


def test_real_bounds_give_a_number_too() -> None:
    r = np.random.default_rng(1).random(300)
    found = measure(r, r)
    assert needed({"max": 0.001}, found["ks"]) == pytest.approx(3_200, rel=0.05)
    assert needed({"max": 0.001}, found["mae"]) == pytest.approx(3_000, rel=0.1)
    assert at_half({"max": 0.001}, found["mae"]) == pytest.approx(31_000, rel=0.1)
