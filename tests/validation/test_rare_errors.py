"""An engine at its limit does not pass on 300 samples because its worst errors happen not to be among them.

A small part of the simulation of `make bench` (docs/statistics.md), with seeds: errors that are rare, or whose tail is
heavy, and metrics that passed in 10 to 59 % of such draws where an unseen error was as bad as the worst that was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.validation.cases import measure, policy_of, rule, run
from validation.bootstrap import Bootstrap
from validation.comparison import Measurement
from validation.metrics import METRICS, Direction
from validation.outputs import OutputKind, OutputSpec
from validation.sample_size import needed_at_half
from validation.scores import ScoreColumn
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.policy import Rule

    Errors = Callable[[np.random.Generator, int], np.ndarray]

UNIT = OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0)
PLAN = Bootstrap(resamples=400)
DRAWS = 120

ERRORS: dict[str, Errors] = {
    "t with 2 degrees": lambda g, n: 0.02 * g.standard_t(2, n),
    "t with 3 degrees": lambda g, n: 0.02 * g.standard_t(3, n),
    "lognormal 1.5": lambda g, n: 0.006 * g.lognormal(0, 1.5, n),
    "lognormal 2.5": lambda g, n: 0.0001 * g.lognormal(0, 2.5, n),
    "0.5 % wrong by the range": lambda g, n: 0.001 * g.standard_normal(n) + (g.random(n) < 0.005),
    "0.2 % wrong by the range": lambda g, n: 0.001 * g.standard_normal(n) + (g.random(n) < 0.002),
}


def one_column() -> ScoreColumn:
    return ScoreColumn(with_label=False, keeps=False, ends=UNIT.ends)  # one metric alone


def measured(errors: str, metric: str, seed: int, n: int) -> Measurement:
    generator = np.random.default_rng(seed)
    reference = 1 / (1 + np.exp(-0.3 - generator.standard_normal(n)))
    wrong = reference + ERRORS[errors](generator, n)
    candidate = wrong if "range" in errors else np.clip(wrong, 0, 1)
    column = one_column()
    column.update(reference, candidate, label=None, mask=None)
    return Measurement.of("out", metric, column.readings(PLAN, {metric})[metric])


def true_value(errors: str, metric: str) -> float:
    return float(np.mean([measured(errors, metric, 10_000 + seed, 50_000).value for seed in range(4)]))


def limit(metric: str, value: float, times: float = 1) -> Rule:
    """The rule whose limit allows so many times the loss of this value."""
    ideal = METRICS[metric].ideal
    side = "min" if METRICS[metric].direction is Direction.HIGHER_IS_BETTER else "max"
    return rule(metric, **{side: ideal + times * (value - ideal)})


def passes(judged: Rule, m: Measurement) -> bool:
    return m.low >= judged.limit if judged.side == "min" else m.high <= judged.limit


@pytest.mark.parametrize("metric", ["mae", "pearson"])
@pytest.mark.parametrize("errors", ERRORS)
def test_an_engine_at_its_limit_passes_in_six_per_cent_of_draws_at_most(errors: str, metric: str) -> None:
    at_limit = limit(metric, true_value(errors, metric))
    passed = [passes(at_limit, measured(errors, metric, seed, 300)) for seed in range(DRAWS)]
    assert np.mean(passed) <= 0.06


@pytest.mark.parametrize("metric", ["mae", "pearson"])
@pytest.mark.parametrize("errors", ["t with 3 degrees", "0.5 % wrong by the range"])
def test_an_engine_at_half_its_limit_passes_on_the_samples_that_a_pilot_asks_for(errors: str, metric: str) -> None:
    at_twice = limit(metric, true_value(errors, metric), times=2)
    pilots = [measured(errors, metric, seed, 300) for seed in range(21)]
    asked = [300 if passes(at_twice, m) else needed_at_half(at_twice, m, 0.95) for m in pilots]
    enough = int(np.median(asked))
    passed = [passes(at_twice, measured(errors, metric, 500 + seed, enough)) for seed in range(20)]
    assert np.mean(passed) >= 0.9


def test_a_range_bounds_what_a_sample_can_be_wrong_by() -> None:
    reference = np.linspace(0.3, 0.7, 300)
    plan = Bootstrap(resamples=2_000)
    column = one_column()
    column.update(reference, reference, label=None, mask=None)
    ranged = column.readings(plan, {"mae", "bias"})
    assert ranged["mae"].interval.high == pytest.approx(1 - 0.05 ** (1 / 300), rel=0.1)
    assert ranged["bias"].interval.low == pytest.approx(-ranged["mae"].interval.high)
    assert ranged["mae"].interval.high_seen == 0
    # Without a range it is the interval of what was seen, 0.4 long.
    assert measure(reference, reference, plan=plan)["mae"].high == pytest.approx(0.4 * ranged["mae"].interval.high)


def test_outputs_beyond_their_range_widen_it() -> None:
    reference = np.linspace(0, 1, 300)
    column = one_column()
    column.update(reference, np.where(np.arange(300) == 7, 3.0, reference), label=None, mask=None)
    reading = column.readings(PLAN, {"mae"})["mae"]
    assert reading.interval.high > 3 * 4 / 300


def test_a_vector_that_nobody_has_seen_may_be_turned_round() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 8))
    vectors /= np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    exact = 1 - 0.05 ** (1 / 400)
    plan = Bootstrap(resamples=2_000)
    for kind in (OutputKind.EMBEDDING, OutputKind.TENSOR):
        found = measure(vectors, vectors, kind, plan=plan)
        assert 1 - found["cosine"].low == pytest.approx(2 * exact, rel=0.1), kind
        assert found["relative_l2"].high == pytest.approx((4 * exact) ** 0.5, rel=0.1), kind


def test_too_few_samples_for_a_limit_are_inconclusive_and_the_number_that_decides_is_told() -> None:
    same = np.random.default_rng(0).random(300)
    judged = decide(policy_of(rule("pearson", min=0.99)), run(same, same)).rules[0]
    assert judged.outcome is Outcome.INCONCLUSIVE
    many = np.random.default_rng(1).random(judged.needed)
    assert decide(policy_of(rule("pearson", min=0.99)), run(many, many)).outcome is Outcome.PASS
