"""A column of a score output: errors, agreement, distribution, and what labels add."""

from collections.abc import Callable, Collection
from functools import partial

import numpy as np
from numpy.typing import NDArray

from validation import statistics
from validation.accumulators import (
    MASKED,
    Errors,
    Mask,
    Readers,
    Readings,
    drawn,
    quantile_reading,
    read,
    scaled_quantile,
    smooth,
)
from validation.bootstrap import Bootstrap, Interval, exactly
from validation.catalogue import Reading, undefined
from validation.distributions import ks_distance, ks_estimate, wasserstein_terms
from validation.elements import Numbers, element_sums
from validation.groups import Members
from validation.reservoir import KeptSamples
from validation.units import Columns, Floats, units_of
from validation.unseen import Ends, opposite_scores

MOST_GRADES = 100
"""Labels with more distinct values are no grades."""
_NAMES = ("error", "r", "c", "rr", "cc", "rc", "worse")
_NO_LABEL = "needs labels that fit this output, and there are none"


class ScoreColumn:
    """See `Accumulator`; both sides are `[n]`, and `ends` are those of the declared range."""

    _KEPT: tuple[str, ...] = ("r", "c")

    def __init__(self, *, with_label: bool, keeps: bool, ends: Ends = None) -> None:
        self._errors = Errors(_NAMES, (*self._KEPT, *(("label",) if with_label else ())), keeps=keeps)
        self._with_label = with_label
        self._pivot: float | None = None  # close to the values, so that their squares keep their digits
        self._ends = ends
        self._low, self._high = np.full(2, np.inf), np.full(2, -np.inf)

    def update(
        self,
        reference: Numbers,
        candidate: Numbers,
        *,
        label: Numbers | None,
        mask: Mask = None,
        members: Members | None = None,
    ) -> None:
        """Take in one batch."""
        if len(reference) == 0:
            return
        sums, largest = element_sums(reference, candidate, mask)
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
        self._low = np.minimum(self._low, [r.min(), c.min()])
        self._high = np.maximum(self._high, [r.max(), c.max()])
        if self._pivot is None:
            self._pivot = float(r[0])
        own = moments(r, c, self._pivot, label)
        kept = {"r": reference, "c": candidate} | ({"label": label} if label is not None else {})
        self._errors.add({**sums, **own}, largest, kept, members)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of a score."""
        n = self._errors.samples
        if n == 0:
            return {}
        draws, kept = plan.draw(self._errors.units), self._errors.kept
        r, c = _float(kept, "r"), _float(kept, "c")
        note = drawn(kept)
        possible, mean, largest = self._possible(), self._mean, self._largest(r, c)
        in_deviations = partial(
            scaled_quantile,
            draws=draws,
            scale=lambda m: np.sqrt(_variance(mean(m)["rr"], mean(m)["r"])),
            why_not="undefined: the reference is constant",
            equal=self._errors.max_abs == 0,
        )
        readers: dict[str, Callable[[], Reading]] = {
            **self._errors.readers(draws, plan, largest, possible),
            "p99_sd": lambda: in_deviations(quantile_reading(kept, "largest", 0.99, plan, largest and largest())),
            "median_sd": lambda: in_deviations(quantile_reading(kept, "r", 0.5, plan, c.astype(np.float64) - r)),
            "bias": lambda: smooth(draws, n, lambda m: mean(m)["error"], possible=possible),
            "pearson": lambda: (
                self._correlation()
                or smooth(
                    draws, n, lambda m: _pearson(mean(m)), "undefined: the variance is too small", possible=possible
                )
            ),
            "spearman": lambda: _noted(self._correlation() or _spearman_reading(r, c, plan), note),
            **ks_readers(kept, "r", "c", plan),
            "wasserstein": lambda: _noted(_wasserstein_reading(r, c, kept.first_half, plan), note),
            "smd": lambda: self._no_spread() or smooth(draws, n, lambda m: _smd(mean(m)), possible=possible),
            "kl": lambda: _noted(_kl_reading(r, c, plan, equal=self._errors.max_abs == 0), note),
            "mae_drop": lambda: undefined(n, _NO_LABEL),
            "qwk_drop": lambda: undefined(n, _NO_LABEL),
        }
        if self._with_label:
            readers["mae_drop"] = lambda: smooth(draws, n, lambda m: mean(m)["worse"], possible=possible)
            readers["qwk_drop"] = lambda: _noted(_qwk_reading(r, c, _float(kept, "label"), plan), note)
        return read(readers, metrics)

    def _mean(self, m: Columns) -> Columns:
        """The means of a score, of what is summed of a sample."""
        return m

    def _largest(self, r: NDArray[np.floating], c: NDArray[np.floating]) -> Callable[[], Numbers] | None:
        """The largest error of each sample, where it follows from what is kept of both sides."""
        return lambda: np.abs(c.astype(np.float64) - r)

    def _possible(self) -> Columns:
        low, high = float(self._low.min()), float(self._high.max())
        if self._ends is not None:
            low, high = min(low, self._ends[0]), max(high, self._ends[1])
        return opposite_scores(low, high, self._pivot or 0.0)

    def _constant(self) -> list[str]:
        sides = ("reference", "candidate")
        return [side for side, low, high in zip(sides, self._low, self._high, strict=True) if low == high]

    def _correlation(self) -> Reading | None:
        """The reading of a correlation where a side is constant."""
        n, constant = self._errors.samples, self._constant()
        if constant and self._errors.max_abs == 0:
            return Reading(value=1.0, n=n, interval=exactly(1.0), note="both sides are constant and equal")
        if constant:
            return undefined(
                n, f"undefined: the {' and the '.join(constant)} {'are' if constant[1:] else 'is'} constant"
            )
        return None

    def _no_spread(self) -> Reading | None:
        n, constant = self._errors.samples, self._constant()
        if len(constant) == len(self._low):
            if self._errors.max_abs == 0:
                return Reading(value=0.0, n=n, interval=exactly(0.0), note="both sides are constant and equal")
            return undefined(n, "undefined: the reference and the candidate are constant")
        return None


def moments(r: Floats, c: Floats, pivot: float, label: Numbers | None) -> dict[str, Floats]:
    """The numbers of each score, of both sides less `pivot`; arrays of one shape."""
    x, y = r - pivot, c - pivot
    worse = np.zeros_like(r)
    if label is not None:
        wanted = label.astype(np.float64)
        worse = np.abs(c - wanted) - np.abs(r - wanted)
    return {"error": c - r, "r": x, "c": y, "rr": x * x, "cc": y * y, "rc": x * y, "worse": worse}


def _float(kept: KeptSamples, name: str) -> NDArray[np.floating]:
    values = kept.column(name)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


def _noted(reading: Reading, note: str) -> Reading:
    return Reading(
        value=reading.value,
        n=reading.n,
        interval=reading.interval,
        note="; ".join(filter(None, (reading.note, note))),
    )


def _variance(square: Floats, mean: Floats) -> Floats:
    return np.maximum(square - mean * mean, 0.0)


def _pearson(m: Columns) -> Floats:
    scale = np.sqrt(_variance(m["rr"], m["r"])) * np.sqrt(_variance(m["cc"], m["c"]))
    return np.asarray(np.clip((m["rc"] - m["r"] * m["c"]) / scale, -1.0, 1.0))


def _smd(m: Columns) -> Floats:
    return np.asarray((m["c"] - m["r"]) / np.sqrt((_variance(m["rr"], m["r"]) + _variance(m["cc"], m["c"])) / 2))


def ks_readers(kept: KeptSamples, reference: str, candidate: str, plan: Bootstrap, resolution: float = 0.0) -> Readers:
    """Of `ks` and `ks_pvalue` of two kept columns; a pair that differs by `resolution` at most counts as equal."""
    r, c = _float(kept, reference), _float(kept, candidate)
    c = np.where(np.abs(c - r) <= resolution, r, c)
    if r.size == 0:
        return dict.fromkeys(("ks", "ks_pvalue"), lambda: undefined(0, MASKED))

    def distance() -> Reading:
        d, interval = ks_estimate(r, c, kept.first_half, plan.confidence)
        return Reading(value=d, n=r.size, interval=interval, note=drawn(kept))

    def pvalue() -> Reading:
        return Reading(value=statistics.ks_pvalue(ks_distance(r, c), r.size), n=r.size, note=drawn(kept))

    return {"ks": distance, "ks_pvalue": pvalue}


def _spearman_reading(r: NDArray[np.floating], c: NDArray[np.floating], plan: Bootstrap) -> Reading:
    """Covariance and variances of the ranks, each linear in each pair: its own, and what it moves the others' by."""
    n = r.size
    a, b = (_mean_ranks(side) / n - (n + 1) / (2 * n) for side in (r, c))
    columns = {"rc": _linear(r, c, a, b), "rr": _linear(r, r, a, a), "cc": _linear(c, c, b, b)}
    return smooth(plan.draw(units_of(columns)), n, lambda m: np.clip(m["rc"] / np.sqrt(m["rr"] * m["cc"]), -1.0, 1.0))


def _mean_ranks(values: NDArray[np.floating]) -> Floats:
    """Ranks from 1, equal values sharing their mean. Not scipy's: importing it would cost each stage 0.4 s."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _linear(r: NDArray[np.floating], c: NDArray[np.floating], a: Floats, b: Floats) -> Floats:
    """What each pair adds to the mean product of the centred ranks `a` of `r` and `b` of `c`."""
    product = a * b
    moved = product + _ranked_above(r, b) + _ranked_above(c, a)
    return np.asarray(product.mean() + (moved - moved.mean()))


def _ranked_above(values: NDArray[np.floating], weights: Floats) -> Floats:
    """For each value, the sum of the weights of larger values and half those of equal ones, over n."""
    _, place = np.unique(values, return_inverse=True)
    of_place = np.bincount(place, weights=weights)
    above = np.cumsum(of_place[::-1])[::-1] - of_place / 2
    return np.asarray(above[place] / values.size)


def _wasserstein_reading(
    r: NDArray[np.floating], c: NDArray[np.floating], first: NDArray[np.bool_], plan: Bootstrap
) -> Reading:
    every = np.ones(r.size, dtype=bool)
    whole = smooth(
        plan.draw(units_of({"moved": wasserstein_terms(r, c, every)})), r.size, lambda m: np.maximum(m["moved"], 0.0)
    )
    low = 0.0
    if first.any() and not first.all():
        terms = wasserstein_terms(r, c, first)[~first]
        bound = plan.draw(units_of({"moved": terms})).interval(lambda m: m["moved"]).low
        low = max(0.0, bound or 0.0)
    interval = Interval(low=low, high=whole.interval.high, low_seen=low, high_seen=whole.interval.high_seen)
    return Reading(value=whole.value, n=whole.n, interval=interval)


def _kl_reading(r: NDArray[np.floating], c: NDArray[np.floating], plan: Bootstrap, *, equal: bool) -> Reading:
    """Upward biased, as the resamples are: the upper bound is safe, and the lower one is what the bias leaves."""
    edges = statistics.decile_edges(r)
    if edges.size == 0:
        if equal:
            note = "the reference is constant and the candidate equals it"
            return Reading(value=0.0, n=r.size, interval=exactly(0.0), note=note)
        return undefined(r.size, "undefined: the reference is constant")
    bins = edges.size + 1
    places = [np.searchsorted(edges, side, side="right") for side in (r, c)]
    columns = {f"{side}{b}": place == b for side, place in zip("rc", places, strict=True) for b in range(bins)}
    draws = plan.draw(units_of(columns))
    statistic = partial(_binned_kl, bins=bins, n=r.size)
    value = draws.value(statistic)
    found = draws.interval(statistic)
    low = None if found.high_seen is None else max(0.0, 2 * value - found.high_seen)
    interval = Interval(low=low, high=found.high, low_seen=low, high_seen=found.high_seen)
    return Reading(value=value, n=r.size, interval=interval)


def _binned_kl(m: Columns, bins: int, n: int) -> Floats:
    p, q = (np.stack([m[f"{side}{b}"] for b in range(bins)], axis=-1) * n for side in "rc")
    return statistics.binned_kl(p, q)


def _qwk_reading(
    r: NDArray[np.floating], c: NDArray[np.floating], label: NDArray[np.floating], plan: Bootstrap
) -> Reading:
    grades = np.unique(label)
    if grades.size > MOST_GRADES:
        return undefined(r.size, f"undefined: labels with {grades.size:,} distinct values are no grades")
    middles = (grades[1:].astype(np.float64) + grades[:-1]) / 2
    y, x, z = (np.searchsorted(middles, side, side="left").astype(np.float64) for side in (label, r, c))
    top = float(grades.size - 1)
    # Nobody has seen a sample of the lowest grade that one side has right, and to which the other gives the highest.
    lowest_grade = dict.fromkeys(("y", "r", "c", "yy", "rr", "cc", "yr", "yc"), 0.0)
    columns = {"y": y, "r": x, "c": z, "yy": y * y, "rr": x * x, "cc": z * z, "yr": y * x, "yc": y * z}
    return smooth(
        plan.draw(units_of(columns)),
        r.size,
        lambda m: _kappa(m, "r") - _kappa(m, "c"),
        "undefined: labels and scores are one grade",
        lowest=lowest_grade | {"r": top, "rr": top * top},
        highest=lowest_grade | {"c": top, "cc": top * top},
    )


def _kappa(m: Columns, side: str) -> Floats:
    """Quadratic weighted kappa of grades numbered from 0, by their moments."""
    squares = m["yy"] + m[side * 2]
    return np.asarray(1 - (squares - 2 * m[f"y{side}"]) / (squares - 2 * m["y"] * m[side]))
