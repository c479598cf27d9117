"""Distances between the distributions of two paired columns, with bounds that hold without a bootstrap.

D = max over x of |G(x)|, where G(x) = P(candidate <= x) - P(reference <= x) is the mean of a number in {-1, 0, 1} of
each pair: it counts pairs that straddle x. A bootstrap of D is slow and biased upward: it adds its own noise to that of
the sample, and takes the maximum again. Both bounds here do without one.

- Upper: the largest over x of the pointwise bound of |G(x)|. To claim D < limit is to claim |G(x)| < limit at every x,
  and a claim about all of many things needs no correction if each is shown at its own level (intersection-union,
  Berger 1982): where D is really attained, at some x of the population, the pointwise bound is too low in at most
  1 - confidence of samples, and the largest of the bounds is no lower than that one.
- Lower: x and the sign where one random half of the pairs differs most, and there the pointwise bound of the other
  half. D is at least G at any x that was chosen without the other half.

The Wasserstein distance is the mean over pairs of phi(candidate) - phi(reference) for the best phi of slope 1
(Kantorovich and Rubinstein 1958). Its bounds are those of a mean: with the phi of all pairs for the upper one, with a
phi of one half and the pairs of the other for the lower one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validation.bootstrap import Interval
from validation.units import Floats

Values = NDArray[np.floating]
Counts = NDArray[np.int64]
_BLOCK = 1 << 14  # points that are worked on at once


@dataclass(frozen=True, kw_only=True)
class Straddling:
    """At each of `points`: how many pairs have the candidate at or below it alone, and how many the reference alone."""

    points: Values
    candidate_below: Counts
    reference_below: Counts
    pairs: int

    @property
    def gaps(self) -> Floats:
        """G at each point."""
        return np.asarray((self.candidate_below - self.reference_below) / self.pairs)


def straddling(reference: Values, candidate: Values) -> Straddling:
    """Count the pairs that straddle each value that occurs; at least one pair, `[n]` each.

    >>> straddling(np.array([1.0, 2.0]), np.array([2.0, 2.0])).gaps.tolist()
    [-0.5, 0.0]
    """
    kind = np.promote_types(reference.dtype, candidate.dtype)
    r, c = reference.astype(kind), candidate.astype(kind)
    points = np.unique(np.concatenate([r, c]))
    rises, falls = c < r, r < c
    return Straddling(
        points=points,
        candidate_below=_passed(points, c[rises]) - _passed(points, r[rises]),
        reference_below=_passed(points, r[falls]) - _passed(points, c[falls]),
        pairs=r.size,
    )


def _passed(points: Values, values: Values) -> Counts:
    return np.searchsorted(np.sort(values), points, side="right")


def ks_distance(reference: Values, candidate: Values) -> float:
    """Two-sample Kolmogorov-Smirnov D of paired columns, exact, with ties (Smirnov 1948)."""
    return float(np.abs(straddling(reference, candidate).gaps).max())


def ks_estimate(
    reference: Values, candidate: Values, first_half: NDArray[np.bool_], confidence: float
) -> tuple[float, Interval]:
    """D and its bounds, as the module says; `first_half` parts the pairs at random."""
    counts = straddling(reference, candidate)
    d = float(np.abs(counts.gaps).max())
    seen, high = (min(1.0, _highest(counts, confidence, extra)) for extra in (0, 1))
    del counts  # as large as the pairs themselves
    low = _ks_low(reference, candidate, first_half, confidence)
    return d, Interval(low=low, high=high, low_seen=low, high_seen=seen)


def _highest(counts: Straddling, confidence: float, extra: int) -> float:
    """The largest over all points of the pointwise bound of |G|, a block at a time."""
    sides = (counts.candidate_below, counts.reference_below)
    return max(
        float(_pointwise(a[at : at + _BLOCK], b[at : at + _BLOCK], counts.pairs, confidence, extra).max())
        for a, b in (sides, sides[::-1])
        for at in range(0, len(counts.points), _BLOCK)
    )


def _ks_low(reference: Values, candidate: Values, first_half: NDArray[np.bool_], confidence: float) -> float:
    second = ~first_half
    if not first_half.any() or not second.any():
        return 0.0
    guess = straddling(reference[first_half], candidate[first_half])
    place = int(np.abs(guess.gaps).argmax())
    point, up = guess.points[place], bool(guess.gaps[place] > 0)
    r, c = reference[second] <= point, candidate[second] <= point
    with_it, against = (c & ~r, r & ~c) if up else (r & ~c, c & ~r)
    # The lower bound of a difference is the upper bound of its opposite, turned round.
    counts = np.array([against.sum()]), np.array([with_it.sum()])
    return max(0.0, -float(_pointwise(*counts, r.size, confidence, 1)[0]))


def _pointwise(plus: Counts, minus: Counts, pairs: int, confidence: float, extra: int) -> Floats:
    """Upper bound of the mean of pairs that count +1, -1 or 0.

    To them come `extra` pairs that nobody has seen and that count +1. The mean has Dirichlet weights, as in
    `bootstrap`; its quantile is found by the first three cumulants (Cornish and Fisher 1938), without resampling.
    """
    from scipy.special import ndtri  # noqa: PLC0415 - 0.15 s, which reading a manifest need not take

    z = float(ndtri(confidence))
    n = pairs + extra
    p, m = (plus + extra) / n, minus / n
    mean = p - m
    variance = np.maximum(p + m - mean**2, 0.0) / (n + 1)
    third = 2 * (mean - 3 * mean * (p + m) + 2 * mean**3) / ((n + 1) * (n + 2))
    deviation = np.sqrt(variance)
    skew = np.divide(third, variance, out=np.zeros_like(mean), where=variance > 0)
    return np.asarray(mean + z * deviation + (z * z - 1) / 6 * skew)


def wasserstein_terms(reference: Values, candidate: Values, fitted: NDArray[np.bool_]) -> Floats:
    """phi(candidate) - phi(reference) of every pair, with the phi that is best for the pairs `fitted`, `[n]`.

    Where all are fitted, the mean is the Wasserstein distance of order 1, in the output's unit.
    """
    counts = straddling(reference[fitted], candidate[fitted])
    points = counts.points.astype(np.float64)
    # Mass that the candidate has too far down (gap > 0) counts by how far it would have to go up: slope -1 there.
    slopes = -np.sign(counts.gaps[:-1])
    heights = np.concatenate([[0.0], np.cumsum(slopes * np.diff(points))])
    return np.asarray(np.interp(candidate, points, heights) - np.interp(reference, points, heights))


def quantile_interval(values: Values, quantile: float, confidence: float) -> Interval:
    """Bounds of a quantile by order statistics, which hold for every distribution (Thompson 1936).

    None where the sample is too small to give one: for the 99th percentile at 95 %, above it, below 299 values.

    >>> quantile_interval(np.arange(1.0, 101.0), 0.5, 0.95)
    Interval(low=42.0, high=59.0, low_seen=42.0, high_seen=59.0)
    """
    ordered, n = np.sort(values), values.size
    ranks = np.arange(1, n + 1)
    # P(X_(k) >= q) = P(fewer than k values below q), and P(X_(k) <= q) = P(at least k values at or below q).
    high = np.flatnonzero(_binomial_cdf(ranks - 1, n, quantile) >= confidence)
    low = np.flatnonzero(1 - _binomial_cdf(ranks - 1, n, quantile) >= confidence)
    upper = float(ordered[high[0]]) if high.size else None
    lower = float(ordered[low[-1]]) if low.size else None
    return Interval(low=lower, high=upper, low_seen=lower, high_seen=upper)


def _binomial_cdf(k: Counts, n: int, p: float) -> Floats:
    from scipy.special import bdtr  # noqa: PLC0415 - as above

    return np.asarray(bdtr(k.astype(np.float64), n, p))


def sample_quantile(values: Values, quantile: float) -> float:
    """The smallest value with at least this share of values at or below it.

    >>> sample_quantile(np.arange(1.0, 101.0), 0.99)
    99.0
    """
    rank = max(0, int(np.ceil(quantile * values.size - 1e-9)) - 1)
    return float(np.partition(values, rank)[rank])


def smallest_n(quantile: float, confidence: float) -> int:
    """How many values it takes before `quantile_interval` can bound the far side of an extreme quantile.

    >>> smallest_n(0.99, 0.95)
    299
    """
    share = max(quantile, 1 - quantile)
    return int(np.ceil(np.log(1 - confidence) / np.log(share)))
