"""What is measured of an output: one metric of it, of all samples or of those with one value of a slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from validation.metrics import Direction, Metric, Reading, undefined

Place = tuple[str, str] | None
"""A slice and its value, or None for all samples."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric of one output on `n` samples, with its one-sided bounds.

    `column` is None for the output as a whole, `slice` and `group` for all samples, else a slice and its value. The
    whole of a score with several columns is its worst column. `value` is None where the metric is undefined, and
    `note` says why. A bound is None where the data give none; the `_seen` ones leave out what nobody has seen (see
    `bootstrap`). `n` counts independent samples; `rows` are those of the data that they have, where they have several.
    """

    output: str
    column: int | None
    slice: str | None = None
    group: str | None = None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    low_seen: float | None
    high_seen: float | None
    n: int
    rows: int | None = None
    note: str

    @classmethod
    def of(
        cls,
        output: str,
        metric: str,
        reading: Reading,
        *,
        column: int | None = None,
        place: Place = None,
        rows: int | None = None,
    ) -> "Measurement":
        """The reading of a metric of an output, or of a column of it, on all samples or on those in a place."""
        return cls(
            output=output,
            column=column,
            slice=place[0] if place else None,
            group=place[1] if place else None,
            metric=metric,
            value=reading.value,
            low=reading.interval.low,
            high=reading.interval.high,
            low_seen=reading.interval.low_seen,
            high_seen=reading.interval.high_seen,
            n=reading.n,
            rows=rows,
            note=reading.note,
        )


def measurements_of(
    name: str, place: Place, metric: Metric, columns: Sequence[Mapping[str, Reading]], rows: int | None
) -> list[Measurement]:
    """A metric of the output as a whole and, where it has several columns, of each of them."""
    readings = [_require(metric, column.get(metric.name)) for column in columns or [{}]]
    found = [Measurement.of(name, metric.name, _worst_of(metric, readings), place=place, rows=rows)]
    if len(readings) > 1:
        found += [
            Measurement.of(name, metric.name, each, column=column, place=place, rows=rows)
            for column, each in enumerate(readings)
        ]
    return found


def _require(metric: Metric, reading: Reading | None) -> Reading:
    if reading is None:
        return undefined(0, "no sample could be compared")
    if reading.n < metric.least_n:
        return undefined(reading.n, f"undefined on fewer than {metric.least_n} samples")
    return reading


def _worst_of(metric: Metric, readings: Sequence[Reading]) -> Reading:
    """The column whose far bound is the worst; a column without one is worse than any that has it."""
    if len(readings) == 1:
        return readings[0]
    for column, reading in enumerate(readings):
        if reading.value is None:
            return undefined(reading.n, f"column {column}: {reading.note}")
    column = max(range(len(readings)), key=lambda i: _badness(metric, readings[i]))
    worst = readings[column]
    note = "; ".join(filter(None, (f"column {column}, the worst of {len(readings)}", worst.note)))
    return Reading(value=worst.value, n=worst.n, interval=worst.interval, note=note)


def _badness(metric: Metric, reading: Reading) -> tuple[float, float]:
    value, low, high = reading.value or 0.0, reading.interval.low, reading.interval.high
    if metric.direction is Direction.HIGHER_IS_BETTER:
        return (np.inf if low is None else -low, -value)
    if metric.direction is Direction.LOWER_IS_BETTER:
        return (np.inf if high is None else high, value)
    far = np.inf if low is None or high is None else max(abs(low), abs(high))
    return (far, abs(value))
