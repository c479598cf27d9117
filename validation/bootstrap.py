"""Confidence bounds of whatever is a function of means: a seeded, paired Bayesian bootstrap with one sample more.

Every resample weighs the units of samples with independent exponential weights (Rubin 1981); a unit holds both sides
of its samples, so pairs stay pairs. To these comes one unit that nobody has seen, as bad as the worst that was. For
the mean of a bounded number, with the worst that can be in its place, this is the bound of Learned-Miller and Thomas
(2020), and for a proportion the exact one of Clopper and Pearson (1934). Without it a resample of samples that happen
to be good knows of good ones only, and its bound on a skewed error is too low.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from validation.units import Columns, Floats, Units

SEED = 20261121
_BLOCK = 1 << 19  # Weights drawn at once: 4 MiB.

Statistic = Callable[[Columns], Floats]
"""A function of means by name. They come as arrays of one shape, and so does the result."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One-sided bounds, each at the confidence asked for; None where the data give none.

    `low_seen` and `high_seen` are the bounds without the unit that nobody has seen: how much of a bound would shrink
    with the root of n, and how much with n.
    """

    low: float | None = None
    high: float | None = None
    low_seen: float | None = None
    high_seen: float | None = None


NOWHERE = Interval()
"""No bound on either side."""


def exactly(value: float) -> Interval:
    """The interval of what is known."""
    return Interval(low=value, high=value, low_seen=value, high_seen=value)


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """One-sided `confidence` of each bound, and the number of resamples."""

    confidence: float = 0.95
    resamples: int = 2000

    def draw(self, units: Units) -> "Draws":
        """Resample the units; the same units give the same draws."""
        return Draws(units, self)


class Draws:
    """Weighted sums of units, a row a resample; what several statistics of the same units share."""

    def __init__(self, units: Units, plan: Bootstrap) -> None:
        self._plan = plan
        self._names = tuple(units.sums)
        self._sums = np.stack(list(units.sums.values()), axis=1)
        self._sizes = units.sizes
        self._weighted, self._weights = _weigh(self._sums, self._sizes, plan.resamples)
        self._unseen = np.random.Generator(np.random.PCG64([SEED, 1])).standard_exponential(plan.resamples)

    def value(self, statistic: Statistic) -> float:
        """The statistic of the samples as they are."""
        return float(self._of(statistic, self._sums.sum(axis=0), self._sizes.sum()))

    def interval(
        self,
        statistic: Statistic,
        *,
        lowest: Mapping[str, float] | None = None,
        highest: Mapping[str, float] | None = None,
    ) -> Interval:
        """Bounds of a statistic.

        The unit that nobody has seen is the one among those seen whose weight, doubled, moves the statistic most; or
        one sample with the numbers `lowest` or `highest`, where it is known how bad one can be. A number left out
        there is the mean.
        """
        value = self.value(statistic)
        if not np.isfinite(value):
            return NOWHERE
        down, up = self._extremes(statistic)
        lower, higher = self._unit(lowest, down), self._unit(highest, up)
        seen = self._of(statistic, self._weighted, self._weights)
        return Interval(
            low=_bound(self._with(statistic, *lower), -self._plan.confidence, value),
            high=_bound(self._with(statistic, *higher), self._plan.confidence, value),
            low_seen=_bound(seen, -self._plan.confidence, value),
            high_seen=_bound(seen, self._plan.confidence, value),
        )

    def _extremes(self, statistic: Statistic) -> tuple[int, int]:
        total, count = self._sums.sum(axis=0), self._sizes.sum()
        moved = self._of(statistic, total + self._sums, count + self._sizes)
        finite = np.where(np.isfinite(moved), moved, self.value(statistic))
        return int(finite.argmin()), int(finite.argmax())

    def _unit(self, known: Mapping[str, float] | None, worst: int) -> tuple[Floats, float]:
        if known is None:
            return self._sums[worst], float(self._sizes[worst])
        means = self._sums.sum(axis=0) / self._sizes.sum()
        return np.array([known.get(name, mean) for name, mean in zip(self._names, means, strict=True)]), 1.0

    def _with(self, statistic: Statistic, sums: Floats, size: float) -> Floats:
        weighted = self._weighted + self._unseen[:, None] * sums
        return self._of(statistic, weighted, self._weights + self._unseen * size)

    def _of(self, statistic: Statistic, sums: Floats, sizes: Floats) -> Floats:
        means = sums / np.asarray(sizes)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(statistic({name: means[..., number] for number, name in enumerate(self._names)}))


def _weigh(sums: Floats, sizes: Floats, resamples: int) -> tuple[Floats, Floats]:
    """Sums and sizes of every resample. No BLAS: its order of summation changes with the number of cores."""
    generator = np.random.Generator(np.random.PCG64([SEED, 0]))
    both = np.ascontiguousarray(np.concatenate([sums, sizes[:, None]], axis=1).T)
    weighted = np.empty((resamples, len(both)))
    step = max(1, _BLOCK // len(sizes))
    for start in range(0, resamples, step):
        weights = generator.standard_exponential((min(step, resamples - start), len(sizes)))
        for number, column in enumerate(both):
            weighted[start : start + step, number] = np.einsum("ru,u->r", weights, column)
    return weighted[:, :-1], weighted[:, -1]


def _bound(draws: Floats, confidence: float, value: float) -> float | None:
    """The quantile of the draws, on the far side of the value; an undefined draw is as bad as can be."""
    if confidence > 0:
        bound = float(np.quantile(np.where(np.isnan(draws), np.inf, draws), confidence, method="higher"))
        bound = max(bound, value)
    else:
        bound = float(np.quantile(np.where(np.isnan(draws), -np.inf, draws), 1 + confidence, method="lower"))
        bound = min(bound, value)
    return bound if np.isfinite(bound) else None
