"""Turns moments and counts into readings of metrics, and says in words why one is undefined."""

from math import sqrt

from validation import statistics
from validation.metrics import Reading, read
from validation.moments import PairMoments
from validation.statistics import Counts

Readings = dict[str, Reading]
"""Readings by the name of the metric."""


def moment_readings(moments: PairMoments, n: int) -> Readings:
    """`mae`, `max_abs`, `rmse`, `relative_l2` and `pearson` of at least one pair; `n` is the number of samples."""
    return {
        "mae": read(moments.error_sum / moments.count, n),
        "max_abs": read(moments.error_max, n),
        "rmse": read(sqrt(moments.error_squares / moments.count), n),
        "relative_l2": _relative_l2(moments, n),
        "pearson": _pearson(moments, n),
    }


def _relative_l2(moments: PairMoments, n: int) -> Reading:
    if moments.reference_squares > 0:
        return read(sqrt(moments.error_squares / moments.reference_squares), n)
    if moments.error_max == 0:
        return read(0.0, n, "both sides are zero everywhere")
    return read(None, n, "undefined: the reference's norm is zero")


def _pearson(moments: PairMoments, n: int) -> Reading:
    constant = [
        name
        for name, low, high in (
            ("reference", moments.reference_low, moments.reference_high),
            ("candidate", moments.candidate_low, moments.candidate_high),
        )
        if low == high
    ]
    if len(constant) == 2 and moments.error_max == 0:  # noqa: PLR2004 - both sides
        return read(1.0, n, "both sides are constant and equal")
    if constant:
        return read(None, n, f"undefined: the {' and the '.join(constant)} {'are' if constant[1:] else 'is'} constant")
    value = statistics.pearson_from_moments(moments.reference_m2, moments.candidate_m2, moments.cross)
    return read(value, n, "" if value is not None else "undefined: a side's variance is too small for float64")


def ks_readings(d: float, values: int, n: int, note: str = "") -> Readings:
    """`ks` and `ks_pvalue` of a D between `values` values on either side; `n` is the number of samples."""
    return {"ks": read(d, n, note), "ks_pvalue": read(statistics.ks_pvalue(d, values), n)}


def binned_kl_reading(reference: Counts, candidate: Counts, n: int, *, equal: bool) -> Reading:
    """`kl` of two histograms over the bins of the reference's deciles; `equal` says that no pair differed."""
    if reference.size > 1:
        return read(statistics.binned_kl(reference, candidate), n)
    if equal:
        return read(0.0, n, "the reference is constant and the candidate equals it")
    return read(None, n, "undefined: the reference is constant")
