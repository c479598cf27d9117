"""What the gate says of readings, thousands of times: what is slow is done once, or not at all."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from validation import bootstrap
from validation.comparison import ComparisonResult, Measurement
from validation.metrics import METRICS, Direction, Reading
from validation.rules import Policy, Rule
from validation.verdict import RuleResult, decide

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from validation.accumulators import Accumulator
    from validation.bootstrap import Bootstrap
    from validation.units import Floats


# The weights of a bootstrap depend on the number of units alone. Drawing them once for many samples of one size, and
# multiplying by BLAS on one core, gives the numbers that the gate gives, up to rounding (`check_weights`).


@lru_cache(maxsize=3)
def _weights(units: int, resamples: int) -> Floats:
    generator = np.random.Generator(np.random.PCG64([bootstrap.SEED, 0]))
    return generator.standard_exponential((resamples, units))


def _weigh(sums: Floats, sizes: Floats, resamples: int) -> tuple[Floats, Floats]:
    both = np.concatenate([sums, sizes[:, None]], axis=1)
    weighted = _weights(len(sizes), resamples) @ both
    return weighted[:, :-1], weighted[:, -1]


def check_weights() -> None:
    """Raise if the short cut gives other numbers than the gate."""
    generator = np.random.default_rng(0)
    for units in (300, 5000):
        sums, sizes = generator.standard_normal((units, 3)), np.ones(units)
        for fast, slow in zip(_weigh(sums, sizes, 300), bootstrap._weigh(sums, sizes, 300), strict=True):  # noqa: SLF001
            np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)


def quick_readings(accumulator: Accumulator, plan: Bootstrap, wanted: Collection[str]) -> dict[str, Reading]:
    """The readings of an accumulator that are wanted."""
    with mock.patch.object(bootstrap, "_weigh", _weigh):
        return accumulator.readings(plan, wanted)


def rule_at(kind: str, metric: str, limit: float) -> Rule | None:
    """The rule with this limit; None where it would be none, since nothing or everything meets it."""
    side = {
        Direction.LOWER_IS_BETTER: "max",
        Direction.HIGHER_IS_BETTER: "min",
        Direction.NEARER_ZERO_IS_BETTER: "within",
    }[METRICS[metric].direction]
    loss, worst = loss_of(metric, limit), METRICS[metric].worst
    if loss <= 0 or (worst is not None and loss >= abs(worst - METRICS[metric].ideal)):
        return None
    return Rule(output=kind, metric=metric, **{side: abs(limit) if side == "within" else limit})


def loss_of(metric: str, value: float) -> float:
    entry = METRICS[metric]
    if entry.direction is Direction.NEARER_ZERO_IS_BETTER:
        return abs(value)
    return (value - entry.ideal) * (1 if entry.direction is Direction.LOWER_IS_BETTER else -1)


def twice(metric: str, value: float) -> float:
    return METRICS[metric].ideal + 2 * (value - METRICS[metric].ideal)


def judge(readings: Sequence[tuple[Rule, Reading]], policy: Policy) -> tuple[RuleResult, ...]:
    """The results of a policy's rules, each with the reading of its metric."""
    measurements = tuple(Measurement.of(rule.output, rule.metric, reading) for rule, reading in readings)
    result = ComparisonResult(
        samples=max(each.n for each in measurements),
        confidence=policy.confidence,
        resamples=policy.resamples,
        measurements=measurements,
        defects=(),
        slices=(),
        worst=(),
    )
    return decide(policy, result).rules
