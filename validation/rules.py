"""A rule and a policy: what an engine must meet, checked when made, so that no rule can pass everything."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite

from validation.metrics import METRICS, Direction, Metric


class PolicyError(ValueError):
    """A policy that must not be used; the message names the field, the reason and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One limit, in the metric's unit: `max` for a metric where lower is better, `min` where higher is.

    Raises:
        PolicyError: for an unknown metric, a missing, second, non-finite or wrong-sided limit, or one that no value or
            every value meets.
    """

    output: str
    metric: str
    max: float | None = None
    min: float | None = None

    def __post_init__(self) -> None:
        problem = find_problem(self.metric, {"max": self.max, "min": self.min})
        if problem:
            raise PolicyError(f"rule on {self.output}.{problem}")

    @property
    def limit(self) -> float:
        """The one limit that is set."""
        return float(self.max if self.max is not None else self.min or 0.0)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules an engine must meet, all of them; below `min_samples` samples nothing passes.

    Raises:
        PolicyError: without rules, with two rules on one output and metric, or with `min_samples` below 1.
    """

    rules: tuple[Rule, ...]
    min_samples: int = 200

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyError("rules: there are none, so anything would pass; add at least one rule")
        if isinstance(self.min_samples, bool) or not isinstance(self.min_samples, int) or self.min_samples < 1:
            raise PolicyError(
                f"min_samples: {self.min_samples!r} is no count of samples; give a whole number, 1 or more"
            )
        first: dict[tuple[str, str], int] = {}
        for index, rule in enumerate(self.rules):
            earlier = first.setdefault((rule.output, rule.metric), index)
            if earlier != index:
                raise PolicyError(
                    f"rules[{index}]: limits {rule.metric} of {rule.output} again, as rules[{earlier}] does; remove one"
                )


def find_problem(metric_name: object, limits: dict[str, object]) -> str | None:
    """What is wrong with a rule's metric and its `max` and `min`, as `field: reason; remedy`; None if nothing is."""
    metric = METRICS.get(metric_name) if isinstance(metric_name, str) else None
    if metric is None:
        return f"metric: {metric_name!r} is no metric; {suggest(metric_name, METRICS)}"
    given = {side: limit for side, limit in limits.items() if limit is not None}
    right, wrong = ("max", "min") if metric.direction is Direction.LOWER_IS_BETTER else ("min", "max")
    if len(given) > 1:
        return f"{wrong}: both max and min are set; {metric.name} takes {right} alone, remove {wrong}"
    if not given:
        return f"{right}: no limit is set; {metric.name} needs {right}"
    if wrong in given:
        better = metric.direction.value.replace("_", " ")
        return f"{wrong}: of {metric.name}, {better}; use {right}"
    return _find_limit_problem(metric, right, given[right])


def _find_limit_problem(metric: Metric, side: str, limit: object) -> str | None:
    number = finite_number(limit)
    if number is None:
        return f"{side}: {limit!r} is no limit; give a finite number"
    lower = metric.direction is Direction.LOWER_IS_BETTER
    if number < metric.ideal if lower else number > metric.ideal:
        return f"{side}: {limit} is beyond {metric.ideal:g}, the best {metric.name} there is, so nothing would pass"
    if metric.worst is not None and (number >= metric.worst if lower else number <= metric.worst):
        return f"{side}: {limit} is met by every {metric.name}, so anything would pass; tighten it"
    return None


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
