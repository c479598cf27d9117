"""Rules and a policy: what an engine must meet, checked when made, so that no rule can pass everything."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil, inf, isfinite
from reprlib import Repr

from validation.metrics import METRICS, Bound, Direction, Metric

DEFAULT_CONFIDENCE = 0.95
DEFAULT_MIN_SAMPLES = 300
"""So many samples hold a fault that one sample in a hundred has with 95 % probability."""
DEFAULT_RESAMPLES = 2000
_LEVELS = {"fp32": (0, 0), "fp16": (1, 1), "bf16": (1, 2), "int8": (2, 2), "fp8": (2, 2)}
"""Between which of the limits for FP32, FP16 and INT8 those of a precision are halfway. BF16 rounds 8 times as far as
FP16 (8 bits of significand for 11), FP8 further than INT8 near the largest value and less far elsewhere."""
PRECISIONS = tuple(_LEVELS)
SPEEDUPS = ("speedup_vs_reference", "speedup_vs_fp16")
"""Metrics of performance rules: p50 of PyTorch FP32, or of the FP16 engine of the same target, over the engine's."""
_FEWEST_RESAMPLES, MOST_RESAMPLES = 200, 100_000
_TAIL = 10
"""Resamples that lie beyond a bound, at least."""
_SIDES = ("max", "min", "within")


class PolicyError(ValueError):
    """A policy that must not be used; the message names the field, the reason and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One limit, in the metric's unit, on all samples or, with `by`, on each value of a slice on its own.

    `max` for a metric where lower is better, `min` where higher is, `within` (a distance from 0) where 0 is.

    Raises:
        PolicyError: for an unknown metric, a missing, second, non-finite or wrong-sided limit, or one that no value or
            every value meets.
    """

    output: str
    metric: str
    max: float | None = None
    min: float | None = None
    within: float | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        problem = find_problem(self.metric, {"max": self.max, "min": self.min, "within": self.within})
        if problem:
            raise PolicyError(f"rule on {self.output}.{problem}")

    @property
    def limit(self) -> float:
        """The one limit that is set."""
        return float(next(limit for limit in (self.max, self.min, self.within) if limit is not None))

    @property
    def side(self) -> str:
        """Which limit that is: `max`, `min` or `within`."""
        return "max" if self.max is not None else "min" if self.min is not None else "within"

    @property
    def floor(self) -> float:
        """The lowest value that the rule allows; minus infinity where it has none."""
        return {"max": -inf, "min": self.limit, "within": -self.limit}[self.side]

    @property
    def ceiling(self) -> float:
        """The highest value that the rule allows; infinity where it has none."""
        return {"max": self.limit, "min": inf, "within": self.limit}[self.side]


@dataclass(frozen=True, kw_only=True)
class PerformanceRule:
    """A least speed-up, of engines of one precision or of all.

    Raises:
        PolicyError: for an unknown metric or precision, or a limit that is not above 0.
    """

    metric: str
    min: float
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in SPEEDUPS:
            raise PolicyError(f"metric: {shown(self.metric)} is no metric of speed; {suggest(self.metric, SPEEDUPS)}")
        if finite_number(self.min) is None or self.min <= 0:
            raise PolicyError(f"min: {shown(self.min)} is no speed-up; give a number above 0, where 1 is as fast")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise PolicyError(f"precision: {shown(self.precision)} is none; {suggest(self.precision, PRECISIONS)}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules an engine must meet, all of them; below `min_samples` samples nothing passes.

    `confidence` is that of each one-sided bound, by `resamples` resamples.

    Raises:
        PolicyError: without rules, with the same rule twice, or with a number out of its range.
    """

    rules: tuple[Rule, ...]
    min_samples: int = DEFAULT_MIN_SAMPLES
    confidence: float = DEFAULT_CONFIDENCE
    resamples: int = DEFAULT_RESAMPLES
    performance: tuple[PerformanceRule, ...] = ()

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyError("rules: there are none, so anything would pass; add at least one rule")
        _require_count("min_samples", self.min_samples, 1)
        _require_count("resamples", self.resamples, _FEWEST_RESAMPLES)
        if self.resamples > MOST_RESAMPLES:
            raise PolicyError(
                f"resamples: {shown(self.resamples)} is more than can be drawn; give {MOST_RESAMPLES:,} or fewer,"
                f" {DEFAULT_RESAMPLES:,} as a rule"
            )
        confidence = finite_number(self.confidence)
        if confidence is None or not 0.5 < confidence < 1:  # noqa: PLR2004 - a coin's
            raise PolicyError(
                f"confidence: {shown(self.confidence)} is none; give a number between 0.5 and 1, like 0.95"
            )
        fewest = fewest_resamples(confidence)
        if fewest > MOST_RESAMPLES:
            raise PolicyError(
                f"confidence: {confidence} needs {fewest:,} resamples, and {MOST_RESAMPLES:,} is the most; lower it,"
                f" to {DEFAULT_CONFIDENCE:g}"
            )
        if self.resamples < fewest:
            raise PolicyError(
                f"resamples: {self.resamples} have no quantile for confidence {confidence:g}; give {fewest:,} or more"
            )
        self._require_no_repeats()

    def _require_no_repeats(self) -> None:
        first: dict[tuple[str, str, str | None], int] = {}
        for index, rule in enumerate(self.rules):
            earlier = first.setdefault((rule.output, rule.metric, rule.by), index)
            if earlier != index:
                raise PolicyError(
                    f"rules[{index}]: limits {rule.metric} of {rule.output} again, as rules[{earlier}] does; remove one"
                )
        speeds: dict[tuple[str, str | None], int] = {}
        for index, speed in enumerate(self.performance):
            earlier = speeds.setdefault((speed.metric, speed.precision), index)
            if earlier != index:
                raise PolicyError(
                    f"performance[{index}]: limits {speed.metric} again, as performance[{earlier}] does; remove one"
                )

    @property
    def slices(self) -> dict[str, dict[str, frozenset[str]]]:
        """By output and slice, the metrics that have to be measured in each value of the slice."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for rule in self.rules:
            if rule.by is not None:
                metrics = found.setdefault(rule.output, {})
                metrics[rule.by] = metrics.get(rule.by, frozenset()) | {rule.metric}
        return found

    def performance_of(self, precision: str | None) -> tuple[PerformanceRule, ...]:
        """The rules of performance that hold for engines of this precision."""
        return tuple(rule for rule in self.performance if rule.precision in {None, precision})


def limit_at(limits: tuple[float, float, float], precision: str) -> float:
    """The limit of a precision, of those for FP32, FP16 and INT8.

    >>> limit_at((0.01, 0.05, 0.25), "fp8"), limit_at((0.01, 0.05, 0.25), "bf16")
    (0.25, 0.15)
    """
    low, high = (limits[level] for level in _LEVELS[precision])
    return low if low == high else (low + high) / 2


def fewest_resamples(confidence: float) -> int:
    """How many resamples a bound at a confidence needs, so that some lie beyond it."""
    return ceil(round(_TAIL / (1 - confidence), 6))  # 1 - 0.9999 is a little more than it should be


def _require_count(field: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PolicyError(f"{field}: {shown(value)} is no such count; give a whole number, {least} or more")


def find_problem(metric_name: object, limits: dict[str, object]) -> str | None:
    """What is wrong with a rule's metric and its limits, as `field: reason; remedy`; None if nothing is."""
    metric = METRICS.get(metric_name) if isinstance(metric_name, str) else None
    if metric is None:
        return f"metric: {shown(metric_name)} is no metric; {suggest(metric_name, METRICS)}"
    given = {side: limit for side, limit in limits.items() if limit is not None}
    right = {
        Direction.LOWER_IS_BETTER: "max",
        Direction.HIGHER_IS_BETTER: "min",
        Direction.NEARER_ZERO_IS_BETTER: "within",
    }[metric.direction]
    if not given:
        return f"{right}: no limit is set; {metric.name} needs {right}"
    wrong = next((side for side in given if side != right), None)
    if len(given) > 1:
        return f"{wrong}: {' and '.join(given)} are set; {metric.name} takes {right} alone"
    if wrong is not None:
        return f"{wrong}: of {metric.name}, {metric.direction.value.replace('_', ' ')}; use {right}"
    return _find_limit_problem(metric, right, given[right])


def _find_limit_problem(metric: Metric, side: str, limit: object) -> str | None:
    number = finite_number(limit)
    if number is None:
        return f"{side}: {shown(limit)} is no limit; give a finite number"
    higher = metric.direction is Direction.HIGHER_IS_BETTER
    if number > metric.ideal if higher else number < metric.ideal:
        return f"{side}: {limit} is beyond {metric.ideal:g}, the best {metric.name} there is, so nothing would pass"
    if metric.worst is not None and (number <= metric.worst if higher else number >= metric.worst):
        return f"{side}: {limit} is met by every {metric.name}, so anything would pass; tighten it"
    if metric.share and number == metric.ideal:
        return f"{side}: no number of samples shows that {metric.name} is {metric.ideal:g}; leave some room"
    if metric.bound is Bound.PVALUE and number >= metric.ideal:
        return f"{side}: {limit} is reached by identical outputs alone; give a level of significance, like 0.05"
    return None


def shown(value: object) -> str:
    """What somebody wrote, quoted in an error: its beginning where it is long."""
    quote = Repr()
    quote.maxstring = quote.maxother = quote.maxlong = 80
    quote.maxlevel = 3
    return quote.repr(value)


def finite_number(value: object) -> float | None:
    """The value as a float if it is a finite number and no boolean, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:  # A whole number that no float can hold.
        return None


def suggest(name: object, known: Iterable[str]) -> str:
    """The remedy for a misspelt name: the nearest known one, or all of them."""
    names = list(known)
    nearest = get_close_matches(name, names, n=1) if isinstance(name, str) else []
    return f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(names)}"
