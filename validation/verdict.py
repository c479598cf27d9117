"""Decides whether a candidate meets its policy; whatever is missing or undefined counts against it."""

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from validation.comparison import ComparisonResult, Measurement
from validation.metrics import METRICS
from validation.rules import Policy, Rule

_CLEAR_FAIL_MARGIN = -1.0
"""Below `min_samples` a rule fails only when the loss is at least twice what the limit allows."""


class Outcome(str, Enum):
    """What a rule or a whole policy says about a candidate."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule's outcome and its evidence.

    `margin` is the unused share of what the limit allows, (allowed - loss) / allowed, where a loss is the distance to
    the metric's ideal: 1 is a perfect candidate, 0 is at the limit, -1 is twice the allowance. So margins compare
    between an error of 0.008 against 0.01 and an r of 0.998 against 0.99 (0.2 and 0.8). None where the
    value is undefined, or where the limit allows no loss at all and there is one.
    """

    rule: Rule
    value: float | None
    n: int
    outcome: Outcome
    margin: float | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome with all its evidence; `defects` alone are enough to fail."""

    outcome: Outcome
    rules: tuple[RuleResult, ...]
    defects: tuple[str, ...]

    @property
    def worst_rule(self) -> RuleResult:
        """The rule with the smallest margin, an undefined one first; ties go to the earlier rule."""
        return min(self.rules, key=lambda result: float("-inf") if result.margin is None else result.margin)


def decide(policy: Policy, result: ComparisonResult) -> Verdict:
    """Apply every rule of a policy to what was measured.

    Fails on any defect, when no sample was compared, and when any rule fails: its limit is crossed, or its metric is
    missing or undefined. Below `min_samples` a rule is inconclusive, unless it fails clearly: by twice its allowance.
    The verdict is `pass` only if every rule passes.
    """
    measured = {(m.output, m.metric): m for m in reversed(result.measurements) if m.column is None}
    rules = tuple(_judge(rule, measured.get((rule.output, rule.metric)), policy.min_samples) for rule in policy.rules)
    defects = result.defects if result.samples > 0 else (*result.defects, "no sample was compared")
    return Verdict(outcome=_combine(rules, defects), rules=rules, defects=defects)


def _combine(rules: tuple[RuleResult, ...], defects: tuple[str, ...]) -> Outcome:
    outcomes = {rule.outcome for rule in rules}
    if defects or Outcome.FAIL in outcomes or not outcomes:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in outcomes else Outcome.PASS


def _judge(rule: Rule, measurement: Measurement | None, min_samples: int) -> RuleResult:
    name = f"{rule.output} {rule.metric}"
    if measurement is None:
        sentence = f"{name} was not measured, so the rule fails."
        return RuleResult(rule=rule, value=None, n=0, outcome=Outcome.FAIL, margin=None, sentence=sentence)
    value, n = measurement.value, measurement.n
    note = f" ({measurement.note})" if measurement.note else ""
    if value is None or not isfinite(value):
        sentence = f"{name} has no value{note}, so the rule fails."
        return RuleResult(rule=rule, value=None, n=n, outcome=Outcome.FAIL, margin=None, sentence=sentence)
    outcome = _outcome(rule, value, n, min_samples)
    return RuleResult(
        rule=rule,
        value=value,
        n=n,
        outcome=outcome,
        margin=_margin(rule, value),
        sentence=f"{name} is {value:.4g}, {_relation(rule, value)} on {n:,} samples{_why(outcome, min_samples)}{note}.",
    )


def _outcome(rule: Rule, value: float, n: int, min_samples: int) -> Outcome:
    if n >= min_samples:
        return Outcome.PASS if _is_met(rule, value) else Outcome.FAIL
    margin = _margin(rule, value)
    return Outcome.FAIL if margin is None or margin <= _CLEAR_FAIL_MARGIN else Outcome.INCONCLUSIVE


def _is_met(rule: Rule, value: float) -> bool:
    return value <= rule.max if rule.max is not None else value >= rule.limit


def _margin(rule: Rule, value: float) -> float | None:
    ideal = METRICS[rule.metric].ideal
    allowed, loss = abs(rule.limit - ideal), abs(value - ideal)
    if allowed > 0:
        return (allowed - loss) / allowed
    return 0.0 if loss == 0 else None


def _relation(rule: Rule, value: float) -> str:
    side = "maximum" if rule.max is not None else "minimum"
    met = "within" if _is_met(rule, value) else "beyond"
    return f"{met} its {side} of {rule.limit:g}"


def _why(outcome: Outcome, min_samples: int) -> str:
    return f", fewer than the {min_samples:,} that decide" if outcome is Outcome.INCONCLUSIVE else ""
