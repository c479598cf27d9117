"""What an entry of the catalogue of metrics is, and what is read of one; `metrics` has the entries."""

from dataclasses import dataclass
from enum import Enum

from validation.bootstrap import NOWHERE, Interval
from validation.outputs import OutputKind


class Direction(str, Enum):
    """Which way a metric improves."""

    LOWER_IS_BETTER = "lower_is_better"
    HIGHER_IS_BETTER = "higher_is_better"
    NEARER_ZERO_IS_BETTER = "nearer_zero_is_better"


class Bound(str, Enum):
    """How sure one is of a metric, and so what its rule asks for."""

    INTERVAL = "interval"
    """The far bound must clear the limit."""
    OBSERVED = "observed"
    """The samples as they are; nothing can be said of those that nobody has seen."""
    PVALUE = "pvalue"
    """It is a p-value: below the limit after Holm's correction, the rule fails."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One entry of the catalogue.

    `ideal` is the value of a candidate equal to its reference, `worst` the worst possible value (None: unbounded).
    `least_n` is the number of samples below which the metric is undefined. `constant` says what becomes of it where a
    side does not vary. `quantile` is set for quantiles, whose bound needs enough samples beyond it. Of a `share`, the
    sample that nobody has seen is a wrong one, so its bound never reaches the ideal. `sums` says that sums tell it, so
    that no sample needs to be kept.
    """

    name: str
    direction: Direction
    kinds: frozenset[OutputKind]
    least_n: int
    ideal: float
    worst: float | None
    description: str
    source: str
    constant: str
    needs_label: bool
    bound: Bound
    quantile: float | None
    share: bool
    sums: bool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A metric's value on `n` samples with its interval; `value` is None where it is undefined, and `note` says why."""

    value: float | None
    n: int
    interval: Interval = NOWHERE
    note: str = ""


def undefined(n: int, why: str) -> Reading:
    """The reading of a metric that has no value."""
    return Reading(value=None, n=n, note=why)


def entry(
    name: str,
    kinds: frozenset[OutputKind],
    direction: Direction,
    description: str,
    source: str,
    *,
    worst: float | None = None,
    least_n: int = 1,
    constant: str = "as any other",
    needs_label: bool = False,
    bound: Bound = Bound.INTERVAL,
    quantile: float | None = None,
    share: bool = False,
    sums: bool = True,
    ideal: float | None = None,
) -> Metric:
    """An entry; its ideal is 1 where higher is better and 0 elsewhere, unless it says another."""
    best = 1.0 if direction is Direction.HIGHER_IS_BETTER else 0.0
    return Metric(
        name=name,
        direction=direction,
        kinds=kinds,
        least_n=least_n,
        ideal=best if ideal is None else ideal,
        worst=worst,
        description=description,
        source=source,
        constant=constant,
        needs_label=needs_label,
        bound=bound,
        quantile=quantile,
        share=share,
        sums=sums and quantile is None,
    )
