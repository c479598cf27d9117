"""What is kept of an output while its batches stream by, and the readings that follow: one accumulator for each kind.

Sums over units of samples for all that is a function of means, and the samples themselves, up to a limit, for ranks,
quantiles and distributions. Readings are the same bytes however the samples are cut into batches.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from validation.bootstrap import Bootstrap, Draws, Interval, Statistic, exactly
from validation.catalogue import Reading, undefined
from validation.distributions import quantile_interval, sample_quantile
from validation.elements import NAMES, Numbers
from validation.groups import Members
from validation.reservoir import KeptSamples
from validation.units import Columns, Floats, Units

MASKED = "undefined: the mask leaves nothing"

Readings = dict[str, Reading]
"""Readings by the name of the metric."""
Readers = Mapping[str, Callable[[], Reading]]
"""How each metric is read."""
Mask = NDArray[np.bool_] | None


class Accumulator(Protocol):
    """Takes pairs of equally shaped, finite batches (first axis the samples), and gives readings by metric."""

    def update(
        self,
        reference: Numbers,
        candidate: Numbers,
        *,
        label: Numbers | None,
        mask: Mask,
        members: Members | None = None,
    ) -> None:
        """Take in one batch. `label`, `mask` and `members` come with every batch or with none."""

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The readings of `metrics`, those that this kind of output has, of all batches so far."""


def read(readers: Readers, metrics: Collection[str]) -> Readings:
    """The readings of `metrics`; nothing is done for others."""
    return {name: reader() for name, reader in readers.items() if name in metrics}


class Errors:
    """The metrics that every numeric output has: a part of each accumulator.

    It has sums of its own, `names`, and keeps `kept` of each sample, "largest" among them: the largest absolute error.
    Where only metrics are wanted that sums tell, it `keeps` nothing.
    """

    def __init__(self, names: tuple[str, ...] = (), kept: tuple[str, ...] = ("largest",), *, keeps: bool) -> None:
        self.units = Units((*NAMES, *names))
        self.kept = KeptSamples(kept)
        self._keeps = keeps
        self.max_abs = 0.0

    def add(
        self,
        sums: Columns,
        largest: Floats,
        kept: dict[str, Numbers] | None = None,
        members: Members | None = None,
    ) -> None:
        """Take in the element sums of a batch, other sums of the accumulator's own, and what it keeps."""
        self.units.add(sums, members)
        if self._keeps:
            whole = {"largest": largest, **(kept or {})}
            real = sums["elements"] > 0  # a sample that is all padding has no error, and is not one without
            of = None if members is None else members.chosen(real)
            self.kept.add({name: values[real] for name, values in whole.items()}, of)
        self.max_abs = max(self.max_abs, float(largest.max(initial=0.0)))

    @property
    def samples(self) -> int:
        """How many independent samples there were."""
        return self.units.samples

    def readers(
        self,
        draws: Draws,
        plan: Bootstrap,
        largest: Callable[[], Numbers] | None = None,
        possible: Columns | None = None,
    ) -> Readers:
        """Of `mae`, `rmse`, `max_abs`, `p99_abs`, `relative_l2` and `cosine`; `largest`, where that is not kept.

        `possible` are the worst samples that can be: see `unseen`.
        """
        n = self.samples
        known = Interval(low=self.max_abs, low_seen=self.max_abs)
        found: dict[str, Callable[[], Reading]] = {
            "mae": lambda: smooth(draws, n, lambda m: m["abs"] / m["elements"], possible=possible),
            "rmse": lambda: smooth(draws, n, lambda m: np.sqrt(m["squares"] / m["elements"]), possible=possible),
            "max_abs": lambda: Reading(value=self.max_abs, n=n, interval=known),
            "p99_abs": lambda: quantile_reading(self.kept, "largest", 0.99, plan, largest and largest()),
            "relative_l2": lambda: smooth(
                draws,
                n,
                lambda m: np.sqrt(m["squares"] / m["reference_squares"]),
                "undefined: the reference is zero throughout",
                possible=possible,
            ),
            "cosine": lambda: smooth(
                draws,
                n,
                lambda m: np.clip(
                    m["products"] / (np.sqrt(m["reference_squares"]) * np.sqrt(m["candidate_squares"])), -1, 1
                ),
                "undefined: a side is zero throughout",
                possible=possible,
            ),
        }
        if draws.value(lambda m: m["elements"]) == 0:
            return dict.fromkeys(found, lambda: undefined(n, MASKED))
        if self.max_abs == 0 and draws.value(lambda m: m["reference_squares"]) == 0:
            both = "both sides are zero everywhere"
            found["relative_l2"] = lambda: Reading(value=0.0, n=n, interval=exactly(0.0), note=both)
            found["cosine"] = lambda: Reading(value=1.0, n=n, interval=exactly(1.0), note=both)
        return found


def smooth(
    draws: Draws,
    n: int,
    statistic: Statistic,
    why_not: str = "undefined",
    *,
    lowest: dict[str, float] | None = None,
    highest: dict[str, float] | None = None,
    possible: Columns | None = None,
) -> Reading:
    """The reading of a function of means; `lowest`, `highest` and `possible` as for `Draws.interval`."""
    value = draws.value(statistic)
    if not np.isfinite(value):
        return undefined(n, why_not)
    interval = draws.interval(statistic, lowest=lowest, highest=highest, possible=possible)
    return Reading(value=value, n=n, interval=interval)


def quantile_reading(
    kept: KeptSamples, column: str, quantile: float, plan: Bootstrap, values: Numbers | None = None
) -> Reading:
    """The reading of a quantile of what is kept of a column, or of `values` made of what is kept."""
    found = np.asarray(kept.column(column) if values is None else values, dtype=np.float64)
    if found.size == 0:
        return undefined(0, MASKED)
    interval = quantile_interval(found, quantile, plan.confidence)
    return Reading(value=sample_quantile(found, quantile), n=found.size, interval=interval, note=drawn(kept))


def scaled_quantile(reading: Reading, draws: Draws, scale: Statistic, why_not: str, *, equal: bool = False) -> Reading:
    """The reading of a quantile over a scale, which is a function of means: both are bounded, so its bound is too.

    Where the scale is 0 it is undefined, `why_not`, or 0 where the sides are `equal`.
    """
    size = smooth(draws, reading.n, scale)
    if reading.value is None or size.value is None:
        return reading
    least, most = size.interval.low_seen, size.interval.high_seen
    if not size.value or not least or not most:
        both = Reading(value=0.0, n=reading.n, interval=exactly(0.0), note="both sides are equal throughout")
        return both if equal else undefined(reading.n, why_not)
    low, high = reading.interval.low, reading.interval.high
    low = None if low is None else low / (most if low > 0 else least)
    high = None if high is None else high / (least if high > 0 else most)
    interval = Interval(low=low, high=high, low_seen=low, high_seen=high)
    return Reading(value=reading.value / size.value, n=reading.n, interval=interval, note=reading.note)


def drawn(kept: KeptSamples) -> str:
    """Says when a reading is of a part of the samples."""
    return kept.note
