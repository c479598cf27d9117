"""The catalogue of metrics: what each one means, which way is better, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from types import MappingProxyType

from validation.outputs import OutputKind


class Direction(str, Enum):
    """Which way a metric improves."""

    LOWER_IS_BETTER = "lower_is_better"
    HIGHER_IS_BETTER = "higher_is_better"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One entry of the catalogue.

    `ideal` is the value of a candidate equal to its reference, `worst` the worst possible value (None: unbounded).
    `least_n` is the number of samples below which the metric is undefined.
    """

    name: str
    direction: Direction
    kinds: frozenset[OutputKind]
    least_n: int
    ideal: float
    worst: float | None
    description: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A metric's value on `n` samples; `value` is None where it is undefined, and `note` then says why."""

    value: float | None
    n: int
    note: str = ""


def read(value: float | None, n: int, note: str = "") -> Reading:
    """Make a reading of plain Python numbers; a value that is not finite becomes None with a note."""
    if value is None:
        return Reading(value=None, n=int(n), note=note or "undefined")
    if not isfinite(value):
        return Reading(value=None, n=int(n), note=note or "not a finite number")
    return Reading(value=float(value), n=int(n), note=note)


_EVERY = frozenset(OutputKind)
_SCORE = frozenset({OutputKind.SCORE})
_CLASSES = frozenset({OutputKind.LOGITS, OutputKind.PROBABILITIES})
_LOWER, _HIGHER = Direction.LOWER_IS_BETTER, Direction.HIGHER_IS_BETTER


def _error(name: str, description: str, source: str, kinds: frozenset[OutputKind] = _EVERY) -> Metric:
    return Metric(
        name=name,
        direction=_LOWER,
        kinds=kinds,
        least_n=1,
        ideal=0.0,
        worst=None,
        description=description,
        source=source,
    )


_CATALOGUE = (
    _error("mae", "mean absolute error, in the output's unit", "Willmott and Matsuura 2005, Climate Research 30"),
    _error("mae_range", "mean absolute error as a share of the declared range", "mae / (high - low)", _SCORE),
    _error("max_abs", "largest absolute error of any element, in the output's unit", "Chebyshev distance"),
    _error("rmse", "root mean square error, in the output's unit", "Chai and Draxler 2014, Geosci. Model Dev. 7"),
    _error("relative_l2", "norm of the error over the norm of the reference", "Golub and Van Loan 2013, section 2.2"),
    Metric(
        name="pearson",
        direction=_HIGHER,
        kinds=_EVERY,
        least_n=2,
        ideal=1.0,
        worst=-1.0,
        description="Pearson's r; undefined on a constant side, 1 where both are constant and equal",
        source="Pearson 1895, Proc. R. Soc. 58",
    ),
    Metric(
        name="ks",
        direction=_LOWER,
        kinds=_EVERY,
        least_n=1,
        ideal=0.0,
        worst=1.0,
        description="two-sample Kolmogorov-Smirnov D; of logits and probabilities: D of the top-1 confidence",
        source="Smirnov 1948, Ann. Math. Stat. 19",
    ),
    Metric(
        name="ks_pvalue",
        direction=_HIGHER,
        kinds=_EVERY,
        least_n=1,
        ideal=1.0,
        worst=0.0,
        description="p-value of D for independent samples; the pairs here are not, so log it rather than gate on it",
        source="Gnedenko and Korolyuk 1951 up to n = 10,000, Smirnov's limit beyond",
    ),
    _error(
        "kl",
        "KL(reference || candidate) in nats; of logits and probabilities the mean over samples (last axis), "
        "else of the values in bins at the reference's deciles",
        "Kullback and Leibler 1951, Ann. Math. Stat. 22; deciles as for the population stability index, Siddiqi 2006",
    ),
    Metric(
        name="top1_agreement",
        direction=_HIGHER,
        kinds=_CLASSES,
        least_n=1,
        ideal=1.0,
        worst=0.0,
        description="share of samples whose most likely class is the reference's (ties: the lowest class)",
        source="fidelity of Stanton et al. 2021, Does Knowledge Distillation Really Work?",
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _CATALOGUE})
"""Every metric by name, in the order in which they are reported."""


def metrics_of(kind: OutputKind) -> tuple[Metric, ...]:
    """The metrics that an output of this kind has, in the catalogue's order."""
    return tuple(metric for metric in METRICS.values() if kind in metric.kinds)
