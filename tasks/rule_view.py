"""A verdict's rules in one form, of outputs and of performance alike, for its tables, figures and lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from validation.metrics import METRICS
from validation.printing import printable
from validation.verdict import SEVERITY, Outcome, PerformanceResult, RuleResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from validation.comparison import ComparisonResult


_SIGNS = {"max": "≤ ", "min": "≥ ", "within": "±"}


@dataclass(frozen=True, kw_only=True)
class JudgedRule:
    """One rule and how it was judged; of a rule by slice, in one value of the slice, `group`.

    `column` is the one whose p-value was tested; other rules stand for all columns of an output. `output` and `n` are
    None for a rule of performance. `ideal` is the metric's best value, None where it has no end.
    `adjusted` is a p-value after Holm's correction. `margin` is the unused share of what the limit allows.
    """

    output: str | None
    metric: str
    column: int | None = None
    slice: str | None = None
    group: str | None = None
    side: str
    limit: float
    ideal: float | None
    value: float | None
    low: float | None
    high: float | None
    adjusted: float | None = None
    n: int | None = None
    needed: int | None = None
    outcome: Outcome
    margin: float | None
    sentence: str

    @property
    def name(self) -> str:
        """`score mae at level=3`."""
        place = "" if self.group is None else f" at {self.slice}={self.group}"
        column = "" if self.column is None else f" of column {self.column}"
        return printable(f"{'' if self.output is None else f'{self.output} '}{self.metric}{column}{place}")

    @property
    def judged_value(self) -> float | None:
        """The estimate, or the p-value that the limit was held against."""
        return self.value if self.adjusted is None else self.adjusted

    @property
    def against_limit(self) -> str:
        """The estimate and the limit: `0.0016 (≤ 0.01)`."""
        value = "no value" if self.judged_value is None else _digits(self.judged_value, self.ideal)
        return f"{value} ({self.limit_in_words})"

    @property
    def limit_in_words(self) -> str:
        """`≤ 0.01`."""
        return f"{_SIGNS[self.side]}{self.limit:g}"

    @property
    def in_brief(self) -> str:
        """The rule in a few words, for a table; an undecided one with the number of samples that would decide it."""
        if self.outcome is not Outcome.INCONCLUSIVE:
            more = ""
        elif self.needed is None:
            more = ", not decided"
        else:
            more = f", about {self.needed:,} samples would decide"
        return f"{self.name} {self.against_limit}{more}"

    def used(self, value: float) -> float:
        """The share of what the limit allows that `value` uses up: 0 at the ideal or better, 1 at the limit.

        A speed-up has no ideal; its share is that of the time allowed.
        """
        if self.ideal is None:
            return self.limit / value if value > 0 else float("inf")
        sign = -1.0 if self.side == "min" else 1.0
        loss = abs(value) if self.side == "within" else max(0.0, sign * (value - self.ideal))
        allowed = sign * (self.limit - self.ideal)
        if allowed > 0:
            return loss / allowed
        return 0.0 if loss == 0 else float("inf")


def _digits(value: float, ideal: float | None) -> str:
    """Four digits, or as many as tell the value from the ideal."""
    shown = f"{value:.4g}"
    return f"{value:.8g}" if ideal is not None and float(shown) == ideal else shown


def judged_rules(verdict: Verdict) -> tuple[JudgedRule, ...]:
    """Every rule of a verdict, the worst first: by outcome, then those of outputs before speed, then by margin."""
    rules = [*map(_of_output, verdict.rules), *map(_of_performance, verdict.performance)]
    return tuple(sorted(rules, key=_badness))


def worst_first(sentences: Iterable[tuple[Outcome, str]]) -> list[tuple[Outcome, str]]:
    """Outcomes with their sentences, failures first, else in their order."""
    return sorted(sentences, key=lambda each: SEVERITY[each[0]])


def deciding_sentence(verdict: Verdict) -> str:
    """Why the verdict is what it is: the first defect, else the sentence of the worst rule."""
    if not verdict.defects:
        return judged_rules(verdict)[0].sentence
    return f"{verdict.defects[0]}{_others(verdict)}"


def deciding_words(verdict: Verdict) -> str:
    """The same in a few words, for a table."""
    return deciding_sentence(verdict) if verdict.defects else judged_rules(verdict)[0].in_brief


def samples_in_words(comparison: ComparisonResult) -> str:
    """`300 samples`, or `50 independent samples (5,000 rows)`."""
    if comparison.independent is None or comparison.independent == comparison.samples:
        return f"{comparison.samples:,} samples"
    return f"{comparison.independent:,} independent samples ({comparison.samples:,} rows)"


def told_of_outputs(comparison: ComparisonResult) -> tuple[str, ...]:
    """For each output with a mask how much of it is left out, and which scores are judged as one population."""
    hidden = tuple(
        printable(f"{each.output}: its mask hides {100 * each.hidden / each.positions:.3g} % of it")
        for each in comparison.hidden
        if each.positions
    )
    populations = (
        f"{each.output}: its {each.columns:,} columns are judged as one population" for each in comparison.populations
    )
    return (*hidden, *map(printable, populations))


def _others(verdict: Verdict) -> str:
    others = len(verdict.defects) - 1
    return "" if others == 0 else f" (and {others} more {'defect' if others == 1 else 'defects'})"


def _badness(rule: JudgedRule) -> tuple[int, bool, float]:
    return SEVERITY[rule.outcome], rule.output is None, float("-inf") if rule.margin is None else rule.margin


def _of_output(result: RuleResult) -> JudgedRule:
    return JudgedRule(
        output=result.rule.output,
        metric=result.rule.metric,
        column=result.column if result.adjusted is not None else None,
        slice=result.rule.by,
        group=result.group,
        side=result.rule.side,
        limit=result.rule.limit,
        ideal=METRICS[result.rule.metric].ideal,
        value=result.value,
        low=result.low,
        high=result.high,
        adjusted=result.adjusted,
        n=result.n,
        needed=result.needed,
        outcome=result.outcome,
        margin=result.margin,
        sentence=result.sentence,
    )


def _of_performance(result: PerformanceResult) -> JudgedRule:
    """A speed-up's margin is the unused share of the time allowed."""
    low = result.low
    return JudgedRule(
        output=None,
        metric=result.rule.metric,
        side="min",
        limit=result.rule.min,
        ideal=None,
        value=result.value,
        low=low,
        high=result.high,
        outcome=result.outcome,
        margin=None if low is None or low <= 0 else 1 - result.rule.min / low,
        sentence=result.sentence,
    )
