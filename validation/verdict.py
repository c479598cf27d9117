"""Decides whether a candidate meets its policy; whatever is missing or undefined counts against it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from math import isfinite

from validation.comparison import ComparisonResult, Measurement
from validation.metrics import METRICS, Bound, Direction
from validation.printing import printable
from validation.rules import PerformanceRule, Policy, Rule
from validation.sample_size import needed_at_half, needed_samples


class Outcome(str, Enum):
    """What a rule or a whole policy says about a candidate."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


SEVERITY = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
"""Outcomes in the order in which a reader wants them, the worst first."""


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """A measured speed-up with one-sided bounds; `value` is None where it was not measured, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule's outcome and its evidence; of a rule by slice, that of one value of the slice, `group`.

    Of a score with several columns it is that of the worst, `column`; but each p-value has a result of its own.
    `n` counts independent samples, and `rows` the rows of the data that these have, where samples belong to groups.
    `low` and `high` are one-sided bounds. `needed` is about how many samples like these would decide an inconclusive
    rule, `needed_at_half` how many where the engine is at half its limit; None where none would. `adjusted` is a
    p-value after Holm's correction. `margin` is the unused share of what the limit allows, (allowed - loss) / allowed,
    where the loss is the distance from the metric's ideal to the bound that is judged: 1 is a perfect candidate that is
    surely one, 0 is a bound at the limit. So margins compare between rules. None where there is no bound, or where the
    limit allows no loss at all and there is one.
    """

    rule: Rule
    column: int | None = None
    group: str | None = None
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    rows: int | None = None
    needed: int | None = None
    needed_at_half: int | None = None
    adjusted: float | None = None
    outcome: Outcome
    margin: float | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class PerformanceResult:
    """A performance rule's outcome and its evidence."""

    rule: PerformanceRule
    value: float | None
    low: float | None
    high: float | None
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome with all its evidence; `defects` alone are enough to fail.

    `speedups` and `other_pvalues` are what `decide` was told beside the comparison, so that a verdict can be decided
    again. Where `speedups` is None, rules of performance were not judged.
    """

    outcome: Outcome
    rules: tuple[RuleResult, ...]
    defects: tuple[str, ...]
    performance: tuple[PerformanceResult, ...] = ()
    speedups: dict[str, Speedup] | None = None
    other_pvalues: tuple[float, ...] = ()

    @property
    def worst_rule(self) -> RuleResult:
        """The rule that failed, else is inconclusive, else passed, with the smallest margin; the first of equals."""
        return min(self.rules, key=_badness)

    @property
    def pvalues(self) -> tuple[float, ...]:
        """The p-values that rules of this verdict judge, before correction."""
        return tuple(result.value for result in self.rules if _is_test(result) and result.value is not None)

    @property
    def sentences(self) -> tuple[tuple[Outcome, str], ...]:
        """Outcome and sentence of every rule, those of performance last."""
        own = tuple((result.outcome, result.sentence) for result in self.rules)
        return (*own, *((result.outcome, result.sentence) for result in self.performance))


def decide(
    policy: Policy,
    result: ComparisonResult,
    *,
    precision: str | None = None,
    speedups: Mapping[str, Speedup] | None = None,
    other_pvalues: Sequence[float] = (),
) -> Verdict:
    """Apply every rule of a policy to what was measured.

    A rule passes when its bound clears the limit, fails when the opposite bound is beyond it, and is inconclusive in
    between and below `min_samples`; it fails when its metric is missing or undefined. Rules on p-values fail below
    their limit after Holm's correction over all of them and `other_pvalues`, those of the other engines of the same
    conversion. Rules of performance hold for engines of `precision`; without `speedups` they are not judged. The
    verdict is `fail` on any defect and if any rule fails, else `inconclusive` if any is, else `pass`.
    """
    results = _adjusted([each for rule in policy.rules for each in _judge(rule, result, policy)], other_pvalues)
    applicable = () if speedups is None else policy.performance_of(precision)
    performance = tuple(_judge_speed(rule, speedups or {}) for rule in applicable)
    defects = result.defects if result.samples > 0 else (*result.defects, "no sample was compared")
    if (result.confidence, result.resamples) != (policy.confidence, policy.resamples):
        asked = (
            f"measured at confidence {result.confidence:g} by {result.resamples:,} resamples, not {policy.confidence:g}"
            f" by {policy.resamples:,} as the policy asks"
        )
        defects = (*defects, asked)
    return Verdict(
        outcome=_combine([*(each.outcome for each in results), *(each.outcome for each in performance)], defects),
        rules=tuple(results),
        defects=defects,
        performance=performance,
        speedups=None if speedups is None else dict(speedups),
        other_pvalues=tuple(other_pvalues),
    )


def _combine(outcomes: Sequence[Outcome], defects: Sequence[str]) -> Outcome:
    if defects or Outcome.FAIL in outcomes or not outcomes:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in outcomes else Outcome.PASS


def _judge(rule: Rule, result: ComparisonResult, policy: Policy) -> Iterator[RuleResult]:
    """The results of one rule: one, or one for each value of its slice."""
    fitting = [m for m in result.measurements if (m.output, m.metric, m.slice) == (rule.output, rule.metric, rule.by)]
    for group in sorted({m.group for m in fitting}, key=lambda each: each or ""):
        columns = [m for m in fitting if m.group == group and m.column is not None]
        judged = [_judge_measured(rule, m, policy) for m in columns or [m for m in fitting if m.group == group]]
        if METRICS[rule.metric].bound is Bound.PVALUE:
            yield from judged  # each is a test of its own
        else:
            yield min(judged, key=_badness)  # it passes only if all columns do, and fails if one does
    if not fitting:
        lacking = (
            "was not measured" if rule.by is None else f"by {rule.by} was not measured: no slice.{rule.by} in the data"
        )
        sentence = printable(f"{rule.output} {rule.metric} {lacking}, so the rule fails.")
        yield RuleResult(rule=rule, value=None, n=0, outcome=Outcome.FAIL, margin=None, sentence=sentence)


def _badness(result: RuleResult) -> tuple[int, float]:
    """The worst has the least; one without a margin is worse than any with it."""
    return SEVERITY[result.outcome], float("-inf") if result.margin is None else result.margin


def _judge_measured(rule: Rule, m: Measurement, policy: Policy) -> RuleResult:
    name, note = _name(rule, m.column, m.group), f" ({m.note})" if m.note else ""
    said = partial(RuleResult, rule=rule, column=m.column, group=m.group, n=m.n, rows=m.rows)
    if m.value is None or not isfinite(m.value):
        few = 0 < m.n < METRICS[rule.metric].least_n
        left = "is not decided" if few else "fails"
        sentence = f"{name} has no value {_on(m.n, m.rows)}{note}, so the rule {left}."
        return said(
            value=None,
            needed=policy.min_samples if few else None,
            outcome=Outcome.INCONCLUSIVE if few else Outcome.FAIL,
            margin=None,
            sentence=sentence,
        )
    shown = _outcome(rule, m)
    outcome = shown if m.n >= policy.min_samples else Outcome.INCONCLUSIVE
    needed = at_half = None
    if outcome is Outcome.INCONCLUSIVE:
        needed, at_half = _asked(rule, m, policy, shown)
    return said(
        value=m.value,
        low=m.low,
        high=m.high,
        needed=needed,
        needed_at_half=at_half,
        outcome=outcome,
        margin=_margin(rule, m),
        sentence=f"{name} is {m.value:.4g}{_bounds(rule, m, policy)}: {_relation(rule, outcome)}"
        f" {_samples(m, outcome, (needed, at_half), policy)}{note}.",
    )


def _asked(rule: Rule, m: Measurement, policy: Policy, shown: Outcome) -> tuple[int | None, int | None]:
    """How many samples would decide, if they are like these and if the engine is at half its limit."""
    if shown is Outcome.PASS:
        return policy.min_samples, policy.min_samples
    found = (ask(rule, m, policy.confidence) for ask in (needed_samples, needed_at_half))
    needed, at_half = (None if each is None else max(policy.min_samples, each) for each in found)
    return needed, at_half


def _name(rule: Rule, column: int | None, group: str | None) -> str:
    of_column = "" if column is None else f" of column {column}"
    return printable(f"{rule.output} {rule.metric}{of_column}" + ("" if group is None else f" at {rule.by}={group}"))


def _outcome(rule: Rule, m: Measurement) -> Outcome:
    """Of a measurement on enough samples."""
    if METRICS[rule.metric].bound is Bound.PVALUE:
        return Outcome.PASS  # until all of them are known
    low, high = (m.value, m.value) if METRICS[rule.metric].bound is Bound.OBSERVED else (m.low, m.high)
    if (low is not None and low > rule.ceiling) or (high is not None and high < rule.floor):
        return Outcome.FAIL
    below = rule.side == "min" or (high is not None and high <= rule.ceiling)
    above = rule.side == "max" or (low is not None and low >= rule.floor)
    return Outcome.PASS if below and above else Outcome.INCONCLUSIVE


def _margin(rule: Rule, m: Measurement) -> float | None:
    metric = METRICS[rule.metric]
    if metric.bound is not Bound.INTERVAL:
        return _unused(rule, m.value)
    if metric.direction is not Direction.NEARER_ZERO_IS_BETTER:
        return _unused(rule, m.high if rule.side == "max" else m.low)
    return None if m.low is None or m.high is None else _unused(rule, max(abs(m.low), abs(m.high)))


def _unused(rule: Rule, bound: float | None) -> float | None:
    if bound is None:
        return None
    metric = METRICS[rule.metric]
    sign = -1.0 if metric.direction is Direction.HIGHER_IS_BETTER else 1.0
    allowed, loss = sign * (rule.limit - metric.ideal), max(0.0, sign * (bound - metric.ideal))
    if allowed > 0:
        return (allowed - loss) / allowed
    return 0.0 if loss == 0 else None


def _bounds(rule: Rule, m: Measurement, policy: Policy) -> str:
    if METRICS[rule.metric].bound is not Bound.INTERVAL:
        return ""
    low, high = ("unknown" if bound is None else f"{bound:.4g}" for bound in (m.low, m.high))
    return f", with {100 * policy.confidence:.4g} % confidence at least {low} and at most {high}"


def _relation(rule: Rule, outcome: Outcome) -> str:
    limit = {"max": "its maximum of", "min": "its minimum of", "within": "its bounds of ±"}[rule.side]
    limit = f"{limit}{'' if rule.side == 'within' else ' '}{rule.limit:g}"
    words = {Outcome.PASS: "within", Outcome.FAIL: "beyond", Outcome.INCONCLUSIVE: "not decided against"}
    return f"{words[outcome]} {limit}"


def _samples(m: Measurement, outcome: Outcome, asked: tuple[int | None, int | None], policy: Policy) -> str:
    on, (needed, at_half) = _on(m.n, m.rows), asked
    if outcome is not Outcome.INCONCLUSIVE:
        return on
    rarer = "" if not needed or not at_half or at_half <= needed else f", {at_half:,} if it is at half its limit"
    if m.n < policy.min_samples:
        more = "" if needed is None or needed <= policy.min_samples else f" at all; about {needed:,} would{rarer}"
        return f"{on}, fewer than the {policy.min_samples:,} that decide{more}"
    more = "and more samples would hardly decide it" if needed is None else f"about {needed:,} would decide{rarer}"
    return f"{on}, {more}"


def _on(n: int, rows: int | None) -> str:
    """`on 300 samples`, or `on 50 independent samples (5,000 rows)`."""
    if rows is None or rows == n:
        return f"on {n:,} samples"
    return f"on {n:,} independent {'sample' if n == 1 else 'samples'} ({rows:,} rows)"


def _is_test(result: RuleResult) -> bool:
    return METRICS[result.rule.metric].bound is Bound.PVALUE and result.outcome is not Outcome.INCONCLUSIVE


def _adjusted(results: Sequence[RuleResult], others: Sequence[float]) -> list[RuleResult]:
    """The results with Holm's correction (1979) of those that are p-values."""
    own = [result.value for result in results if _is_test(result) and result.value is not None]
    adjusted = holm([*own, *others])
    numbers = iter(range(len(own)))
    return [
        _tested(result, adjusted[next(numbers)], len(adjusted))
        if _is_test(result) and result.value is not None
        else result
        for result in results
    ]


def _tested(result: RuleResult, adjusted: float, tests: int) -> RuleResult:
    fails = adjusted < result.rule.limit
    meaning = "the distributions differ" if fails else "no difference is shown, which is not to say that there is none"
    sentence = (
        f"{_name(result.rule, result.column, result.group)} is {result.value:.4g}, {adjusted:.4g} after Holm's"
        f" correction for {tests} {'test' if tests == 1 else 'tests'}: {'below' if fails else 'not below'} its minimum"
        f" of {result.rule.limit:g} {_on(result.n, result.rows)}, so {meaning}."
    )
    outcome = Outcome.FAIL if fails else Outcome.PASS
    return replace(result, adjusted=adjusted, outcome=outcome, margin=_unused(result.rule, adjusted), sentence=sentence)


def holm(pvalues: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down method (Holm 1979, Scand. J. Stat. 6), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(pvalues)), key=lambda index: pvalues[index])
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = largest
    return adjusted


def _judge_speed(rule: PerformanceRule, speedups: Mapping[str, Speedup]) -> PerformanceResult:
    found = speedups.get(rule.metric, Speedup(value=None, note="it was not measured"))
    if found.value is None or found.low is None or found.high is None:
        outcome = Outcome.INCONCLUSIVE
        sentence = f"{rule.metric} is not known ({found.note}): not decided against its minimum of {rule.min:g}."
    else:
        outcome = (
            Outcome.PASS if found.low >= rule.min else Outcome.FAIL if found.high < rule.min else Outcome.INCONCLUSIVE
        )
        words = {Outcome.PASS: "within", Outcome.FAIL: "beyond", Outcome.INCONCLUSIVE: "not decided against"}
        note = f" ({found.note})" if found.note else ""
        sentence = (
            f"{rule.metric} is {found.value:.3g}, at least {found.low:.3g} and at most {found.high:.3g}:"
            f" {words[outcome]} its minimum of {rule.min:g}{note}."
        )
    return PerformanceResult(
        rule=rule, value=found.value, low=found.low, high=found.high, outcome=outcome, sentence=sentence
    )
