"""Compares a candidate's outputs with the reference's, batch by batch, in bounded memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Accumulator, Mask, Readings
from validation.bootstrap import Bootstrap
from validation.breakdowns import SliceError, SliceErrors, WorstSample, WorstSamples
from validation.classes import ClassAgreement
from validation.defects import BatchCheck, DefectLog, count_samples
from validation.elements import Numbers, element_sums, unmasked
from validation.metrics import Direction, Metric, Reading, metrics_of, undefined
from validation.outputs import OutputKind, OutputSpec
from validation.scores import ScoreColumn
from validation.vectors import EmbeddingAgreement, TensorErrors

_NONE: Mapping[str, Numbers] = MappingProxyType({})
_NO_SLICES: Mapping[str, Mapping[str, Collection[str]]] = MappingProxyType({})
_BLOCK = 1 << 18  # elements of an output that are worked on at once
Group = tuple[str, str] | None
"""A slice and its value, or None for all samples."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric of one output on `n` samples, with its one-sided bounds.

    `column` is None for the output as a whole, `slice` and `group` for all samples, else a slice and its value. The
    whole of a score with several columns is its worst column. `value` is None where the metric is undefined, and
    `note` says why. A bound is None where the data give none; the `_seen` ones leave out what nobody has seen (see
    `bootstrap`).
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
    note: str

    @classmethod
    def of(
        cls, output: str, metric: str, reading: Reading, *, column: int | None = None, group: Group = None
    ) -> "Measurement":
        """The reading of a metric of an output, or of a column of it, on all samples or on those of a group."""
        return cls(
            output=output,
            column=column,
            slice=group[0] if group else None,
            group=group[1] if group else None,
            metric=metric,
            value=reading.value,
            low=reading.interval.low,
            high=reading.interval.high,
            low_seen=reading.interval.low_seen,
            high_seen=reading.interval.high_seen,
            n=reading.n,
            note=reading.note,
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """All that was measured; `samples` counts those seen, fit to compare or not.

    The bounds hold at one-sided `confidence`, by `resamples` resamples.
    """

    samples: int
    confidence: float
    resamples: int
    measurements: tuple[Measurement, ...]
    defects: tuple[str, ...]
    slices: tuple[SliceError, ...]
    worst: tuple[WorstSample, ...]


class Comparison:
    """Takes batches of reference and candidate outputs, and measures them.

    `outputs` declares every output. `by` names, for an output and a slice, the metrics that are measured in each value
    of the slice. `plan` says how sure the bounds are to be.

    Raises:
        ValueError: when no output is declared.
    """

    def __init__(
        self,
        outputs: Mapping[str, OutputSpec],
        *,
        by: Mapping[str, Mapping[str, Collection[str]]] = _NO_SLICES,
        plan: Bootstrap | None = None,
    ) -> None:
        if not outputs:
            raise ValueError("outputs: none declared; declare at least one output to compare")
        self._outputs = dict(outputs)
        self._by = by
        self._plan = plan or Bootstrap()
        self._accumulators: dict[str, dict[Group, list[Accumulator]]] = {name: {} for name in outputs}
        self._width: dict[str, int] = {}
        self._compared = dict.fromkeys(outputs, 0)
        self._labels: dict[str, bool] = {}
        self._slice_names: frozenset[str] | None = None
        self._samples = 0
        self._log = DefectLog()
        self._slices = SliceErrors()
        self._worst = WorstSamples()

    def update(
        self,
        reference: Mapping[str, Numbers],
        candidate: Mapping[str, Numbers],
        *,
        slices: Mapping[str, Numbers] = _NONE,
        label: Numbers | None = None,
        masks: Mapping[str, Numbers] = _NONE,
    ) -> None:
        """Take in one batch: arrays by output, first axis the samples, in the same order on both sides.

        Never raises for what a model may yield: an output that cannot be compared is noted as a defect and left out of
        this batch. `slices` holds one label per sample `[n]` of text, whole numbers, floats or booleans. `label` is
        what is right: the score, or the number of the class. `masks` holds what outputs name as their mask.
        """
        start, count = self._samples, count_samples(reference, candidate, self._outputs)
        check = BatchCheck(self._log, start=start, count=count)
        check.names("reference", reference, self._outputs)
        check.names("candidate", candidate, self._outputs)
        labels = self._slices.label(slices, np.arange(start, start + count), self._log)
        for slice_name in sorted(self._first_slices(slices) ^ slices.keys()):
            check.note(f"slice.{slice_name}", "is there in some batches only", problem="batches")
        right = check.label(label)
        for name, spec in self._outputs.items():
            if name not in reference or name not in candidate:
                continue
            mask = (
                None
                if spec.mask is None
                else check.mask(
                    name, spec.mask, masks, reference[name], of_positions=spec.kind is not OutputKind.TENSOR
                )
            )
            unusable = spec.mask is not None and mask is None
            if check.pair(name, reference[name], candidate[name], mask) and not unusable and len(reference[name]):
                self._compare(name, reference[name], candidate[name], labels, right, mask, check)
        self._samples += count

    def _first_slices(self, slices: Mapping[str, Numbers]) -> frozenset[str]:
        """The slices of the first batch, which all must have."""
        if self._slice_names is None:
            self._slice_names = frozenset(slices)
        return self._slice_names

    def _compare(
        self,
        name: str,
        reference: Numbers,
        candidate: Numbers,
        labels: Mapping[str, NDArray[np.str_]],
        label: Numbers | None,
        mask: Mask,
        check: BatchCheck,
    ) -> None:
        width = _width(self._outputs[name].kind, reference.shape)
        if self._width.setdefault(name, width) != width:
            check.note(name, f"{width} columns, where the first batch has {self._width[name]}")
            return
        right = self._fitting_label(name, reference, label, check)
        step = max(1, _BLOCK // max(1, int(np.prod(reference.shape[1:]))))
        for first in range(0, len(reference), step):  # so that what is made of a part stays small
            at = slice(first, first + step)
            here = {slice_name: values[at] for slice_name, values in labels.items()}
            label_here, mask_here = (None if right is None else right[at]), (None if mask is None else mask[at])
            self._take(name, self._samples + first, reference[at], candidate[at], here, label_here, mask_here)
        self._compared[name] += len(reference)

    def _take(
        self,
        name: str,
        first: int,
        reference: Numbers,
        candidate: Numbers,
        labels: Mapping[str, NDArray[np.str_]],
        label: Numbers | None,
        mask: Mask,
    ) -> None:
        """Take in a part of a batch, whose first sample is number `first`."""
        self._accumulate(name, None, reference, candidate, label, mask)
        for slice_name in sorted(self._by.get(name, {}).keys() & labels.keys()):
            values = labels[slice_name]
            for value in np.unique(values).tolist():
                rows = values == value
                chosen = [None if side is None else side[rows] for side in (label, mask)]
                self._accumulate(name, (slice_name, str(value)), reference[rows], candidate[rows], *chosen)
        sums, largest = element_sums(reference, candidate, mask)
        self._slices.update(name, labels, sums["abs"] / np.maximum(sums["elements"], 1.0))
        r, c = (unmasked(side, mask) for side in (reference, candidate))
        columns = self._outputs[name].kind is OutputKind.SCORE and self._width[name] > 1
        self._worst.update(name, r, c, largest, start=first, columns=columns)

    def _fitting_label(self, name: str, reference: Numbers, label: Numbers | None, check: BatchCheck) -> Numbers | None:
        """The label, if it is one of this output: of each score, or of each position of classes."""
        kind = self._outputs[name].kind
        wanted: tuple[tuple[int, ...], ...] = ()
        if kind is OutputKind.SCORE:
            n = len(reference)
            wanted = ((n,), (n, 1), reference.shape) if self._width[name] == 1 else (reference.shape,)
        elif kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES}:
            wanted = (reference.shape[:-1], reference.shape[:1]) if reference.ndim > 1 else (reference.shape,)
            wanted = wanted if int(np.prod(reference.shape[1:-1])) == 1 else wanted[:1]
        fits = label is not None and label.shape in wanted
        if self._labels.setdefault(name, fits) != fits:
            check.note(name, "labels that fit this output in some batches only", problem="labels")
        return label if fits and self._labels[name] else None

    def _accumulate(
        self, name: str, group: Group, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask
    ) -> None:
        columns = self._accumulators[name].setdefault(group, [])
        with_label = self._labels[name]
        if with_label and label is None:
            return  # noted as a defect
        if not columns:
            keeps = not all(metric.sums for metric in self._metrics(name, group))
            columns.extend(
                _make_accumulators(self._outputs[name], self._width[name], with_label=with_label, keeps=keeps)
            )
        if self._outputs[name].kind is not OutputKind.SCORE:
            columns[0].update(reference, candidate, label=label, mask=mask)
            return
        flat = (len(reference), -1)
        wanted = None if label is None else label.reshape(flat)
        for column, accumulator in enumerate(columns):
            accumulator.update(
                reference.reshape(flat)[:, column],
                candidate.reshape(flat)[:, column],
                label=None if wanted is None else wanted[:, column],
                mask=mask,
            )

    def result(self) -> ComparisonResult:
        """What was measured so far; more batches may follow."""
        return ComparisonResult(
            samples=self._samples,
            confidence=self._plan.confidence,
            resamples=self._plan.resamples,
            measurements=tuple(m for name in self._outputs for m in self._measure(name)),
            defects=self._log.sentences(),
            slices=self._slices.result(),
            worst=self._worst.result(),
        )

    def _measure(self, name: str) -> list[Measurement]:
        groups = self._accumulators[name] or {None: []}
        found: list[Measurement] = []
        for group in sorted(groups, key=lambda each: each or ("", "")):
            wanted = self._metrics(name, group)
            names = {metric.name for metric in wanted}
            columns = [accumulator.readings(self._plan, names) for accumulator in groups[group]]
            for metric in wanted:
                found.extend(_measurements(name, group, metric, columns))
        return found

    def _metrics(self, name: str, group: Group) -> list[Metric]:
        """What is measured of an output: all that its kind has, but in the values of a slice what is asked for."""
        every = metrics_of(self._outputs[name].kind)
        return [metric for metric in every if group is None or metric.name in self._by[name][group[0]]]


def _width(kind: OutputKind, shape: tuple[int, ...]) -> int:
    """What must be the same in every batch: a score's columns, the classes, an embedding's dimensions."""
    if kind is OutputKind.SCORE:
        return int(np.prod(shape[1:]))
    return shape[-1] if kind is not OutputKind.TENSOR and len(shape) > 1 else 1


def _make_accumulators(spec: OutputSpec, width: int, *, with_label: bool, keeps: bool) -> list[Accumulator]:
    if spec.kind is OutputKind.SCORE:
        return [ScoreColumn(with_label=with_label, keeps=keeps, ends=spec.ends) for _ in range(width)]
    if spec.kind is OutputKind.EMBEDDING:
        return [EmbeddingAgreement(keeps=keeps, ends=spec.ends)]
    if spec.kind is OutputKind.TENSOR:
        return [TensorErrors(keeps=keeps, ends=spec.ends)]
    return [ClassAgreement(logits=spec.kind is OutputKind.LOGITS, with_label=with_label, keeps=keeps)]


def _measurements(name: str, group: Group, metric: Metric, columns: Sequence[Readings]) -> list[Measurement]:
    readings = [_require(metric, column.get(metric.name)) for column in columns or [{}]]
    found = [Measurement.of(name, metric.name, _worst_of(metric, readings), group=group)]
    if len(readings) > 1:
        found += [
            Measurement.of(name, metric.name, each, column=column, group=group) for column, each in enumerate(readings)
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
