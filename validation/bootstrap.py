"""Confidence bounds of whatever is a function of means: a seeded, paired Bayesian bootstrap with one sample more.

Every resample weighs the units of samples with independent exponential weights (Rubin 1981); a unit holds both sides
of its samples, so pairs stay pairs. To these comes one unit that nobody has seen: as bad as the worst that was or,
where it is known, as the worst that can be (see `unseen`). Without it a resample of samples that happen to be good
knows of good ones only, and its bound on a skewed error is too low. Of the mean of a bounded number this is the bound
of Learned-Miller and Thomas (2020), which they prove in part and have seen broken by no distribution; of a proportion
it is the exact one of Clopper and Pearson (1934).

Betting bounds (Waudby-Smith and Ramdas 2024) and empirical-Bernstein ones (Maurer and Pontil 2009) are proven for every
distribution, but bound means alone, and where nothing wrong was seen they ask for as much as this one or for more: of n
samples without a fault none can say less than log(1 / 0.05) / n of those that nobody has seen. Of what is no mean, such
as a correlation, coverage is measured: docs/statistics.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from validation.units import Columns, Floats, Units

SEED = 20261121
_BLOCK = 1 << 19  # Weights drawn at once: 4 MiB.

Statistic = Callable[[Columns], Floats]
"""A function of means by name. They come as arrays of one shape, and so does the result."""
_Unit = tuple[Floats, float]
"""The sums of a unit, and its size."""


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

    def draw(self, units: Units, samples_each: float = 1.0) -> "Draws":
        """Resample the units; the same units give the same draws.

        `samples_each` is how many samples the unit has that nobody has seen: one, or as many as a group on average.
        """
        return Draws(units, self, samples_each)


class Draws:
    """Weighted sums of units, a row a resample; what several statistics of the same units share."""

    def __init__(self, units: Units, plan: Bootstrap, samples_each: float = 1.0) -> None:
        self._plan = plan
        self._samples_each = samples_each
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
        possible: Columns | None = None,
    ) -> Interval:
        """Bounds of a statistic.

        The unit that nobody has seen is the one whose weight, doubled, moves the statistic most, among those seen and
        the samples that are `possible` (their numbers by name, `[k]` each); or one sample with the numbers `lowest` or
        `highest`, where it is known how bad one can be. A number left out there is the mean.
        """
        value = self.value(statistic)
        if not np.isfinite(value):
            return NOWHERE
        down, up = self._extremes(statistic, possible)
        lower = down if lowest is None else self._sample(lowest)
        higher = up if highest is None else self._sample(highest)
        seen = self._of(statistic, self._weighted, self._weights)
        return Interval(
            low=_bound(self._with(statistic, *lower), -self._plan.confidence, value),
            high=_bound(self._with(statistic, *higher), self._plan.confidence, value),
            low_seen=_bound(seen, -self._plan.confidence, value),
            high_seen=_bound(seen, self._plan.confidence, value),
        )

    def _extremes(self, statistic: Statistic, possible: Columns | None) -> tuple[_Unit, _Unit]:
        sums, sizes = self._sums, self._sizes
        if possible is not None:
            made = self._samples(possible)
            sums = np.concatenate([sums, made])
            sizes = np.concatenate([sizes, np.full(len(made), self._samples_each)])
        moved = self._of(statistic, self._sums.sum(axis=0) + sums, self._sizes.sum() + sizes)
        finite = np.where(np.isfinite(moved), moved, self.value(statistic))
        down, up = int(finite.argmin()), int(finite.argmax())
        return (sums[down], float(sizes[down])), (sums[up], float(sizes[up]))

    def _sample(self, numbers: Mapping[str, float]) -> _Unit:
        return self._samples({name: np.array([number]) for name, number in numbers.items()})[0], self._samples_each

    def _samples(self, numbers: Columns) -> Floats:
        """The sums of a unit of each of these samples, `[k, names]`."""
        count = len(next(iter(numbers.values())))
        means = self._sums.sum(axis=0) / self._sizes.sum()
        columns = [numbers.get(name, np.full(count, mean)) for name, mean in zip(self._names, means, strict=True)]
        return self._samples_each * np.stack(columns, axis=1)

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
