"""Sufficient statistics of (reference, candidate) pairs that can be merged, so that memory does not grow with n."""

from dataclasses import dataclass

import numpy as np

from validation.statistics import Floats


@dataclass(frozen=True, kw_only=True)
class PairMoments:
    """Sufficient statistics of `count` (reference, candidate) pairs: extremes, means, centred sums, error sums."""

    count: int = 0
    reference_mean: float = 0.0
    candidate_mean: float = 0.0
    reference_m2: float = 0.0
    candidate_m2: float = 0.0
    cross: float = 0.0
    reference_low: float = float("inf")
    reference_high: float = float("-inf")
    candidate_low: float = float("inf")
    candidate_high: float = float("-inf")
    reference_squares: float = 0.0
    error_sum: float = 0.0
    error_squares: float = 0.0
    error_max: float = 0.0


def pair_moments(reference: Floats, candidate: Floats) -> PairMoments:
    """Moments of two arrays of one shape, in two passes over float64 copies.

    >>> pair_moments(np.array([1.0, 3.0]), np.array([1.0, 2.0])).error_sum
    1.0
    """
    r, c = np.ravel(reference).astype(np.float64), np.ravel(candidate).astype(np.float64)
    if r.size == 0:
        return PairMoments()
    r_mean, c_mean = float(r.mean()), float(c.mean())
    error = np.abs(r - c)
    r_centred, c_centred = r - r_mean, c - c_mean
    return PairMoments(
        count=r.size,
        reference_mean=r_mean,
        candidate_mean=c_mean,
        reference_m2=float(r_centred @ r_centred),
        candidate_m2=float(c_centred @ c_centred),
        cross=float(r_centred @ c_centred),
        reference_low=float(r.min()),
        reference_high=float(r.max()),
        candidate_low=float(c.min()),
        candidate_high=float(c.max()),
        reference_squares=float(r @ r),
        error_sum=float(error.sum()),
        error_squares=float(error @ error),
        error_max=float(error.max()),
    )


def merge_moments(a: PairMoments, b: PairMoments) -> PairMoments:
    """Moments of the union of two sets of pairs: Chan, Golub and LeVeque 1983, The American Statistician 37.

    >>> halves = [pair_moments(np.array([x]), np.array([2 * x])) for x in (1.0, 3.0)]
    >>> merge_moments(*halves).cross
    4.0
    """
    if a.count == 0 or b.count == 0:
        return b if a.count == 0 else a
    count = a.count + b.count
    share, weight = b.count / count, a.count * (b.count / count)
    r_step, c_step = b.reference_mean - a.reference_mean, b.candidate_mean - a.candidate_mean
    return PairMoments(
        count=count,
        reference_mean=a.reference_mean + r_step * share,
        candidate_mean=a.candidate_mean + c_step * share,
        reference_m2=a.reference_m2 + b.reference_m2 + r_step * r_step * weight,
        candidate_m2=a.candidate_m2 + b.candidate_m2 + c_step * c_step * weight,
        cross=a.cross + b.cross + r_step * c_step * weight,
        reference_low=min(a.reference_low, b.reference_low),
        reference_high=max(a.reference_high, b.reference_high),
        candidate_low=min(a.candidate_low, b.candidate_low),
        candidate_high=max(a.candidate_high, b.candidate_high),
        reference_squares=a.reference_squares + b.reference_squares,
        error_sum=a.error_sum + b.error_sum,
        error_squares=a.error_squares + b.error_squares,
        error_max=max(a.error_max, b.error_max),
    )
