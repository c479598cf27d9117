"""Compares a candidate's outputs with the reference's, batch by batch, in bounded memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from validation.accumulators import Accumulator, ClassAgreement, Numbers, ScoreColumn, TensorMoments
from validation.breakdowns import SliceError, SliceErrors, WorstSample, WorstSamples, absolute_errors
from validation.defects import BatchCheck, DefectLog, count_samples
from validation.metrics import Direction, Metric, Reading, metrics_of, read
from validation.outputs import OutputKind, OutputSpec

_NO_SLICES: Mapping[str, Numbers] = MappingProxyType({})
_RANGED = frozenset({OutputKind.EMBEDDING, OutputKind.TENSOR})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric of one output on `n` samples; `column` is None for the output as a whole.

    The whole of a score with several columns is its worst column. `value` is None where the metric is undefined, and
    `note` says why.
    """

    output: str
    column: int | None
    metric: str
    value: float | None
    n: int
    note: str


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """All that was measured; `samples` counts those seen, fit to compare or not."""

    samples: int
    measurements: tuple[Measurement, ...]
    defects: tuple[str, ...]
    slices: tuple[SliceError, ...]
    worst: tuple[WorstSample, ...]


class Comparison:
    """Takes batches of reference and candidate outputs, and measures them.

    `outputs` declares every output. `reference_ranges` gives the smallest and largest value of the reference for each
    output of kind embedding or tensor, whose histogram needs its bins before the first batch; others are ignored. An
    output without one (a reference that lacks it, or is NaN throughout) has no `ks`, `ks_pvalue` and `kl`.

    Raises:
        ValueError: when no output is declared, or a range is no interval.
    """

    def __init__(self, outputs: Mapping[str, OutputSpec], reference_ranges: Mapping[str, tuple[float, float]]) -> None:
        if not outputs:
            raise ValueError("outputs: none declared; declare at least one output to compare")
        self._outputs = dict(outputs)
        self._accumulators: dict[str, list[Accumulator]] = {
            name: _make_accumulators(spec, reference_ranges.get(name)) for name, spec in outputs.items()
        }
        self._compared = dict.fromkeys(outputs, 0)
        self._samples = 0
        self._log = DefectLog()
        self._slices = SliceErrors()
        self._worst = WorstSamples()

    def update(
        self,
        reference: Mapping[str, Numbers],
        candidate: Mapping[str, Numbers],
        *,
        slices: Mapping[str, Numbers] = _NO_SLICES,
    ) -> None:
        """Take in one batch: arrays by output, first axis the samples, in the same order on both sides.

        Never raises for what a model may yield: an output that cannot be compared is noted as a defect and left out of
        this batch. `slices` holds one label per sample `[n]` of text, whole numbers, floats or booleans.
        """
        start, count = self._samples, count_samples(reference, candidate, self._outputs)
        check = BatchCheck(self._log, start=start, count=count)
        check.names("reference", reference, self._outputs)
        check.names("candidate", candidate, self._outputs)
        labels = self._slices.label(slices, np.arange(start, start + count), self._log)
        for name in self._outputs:
            if name in reference and name in candidate and check.pair(name, reference[name], candidate[name]):
                self._compare(name, reference[name], candidate[name], labels, check)
        self._samples += count

    def _compare(
        self, name: str, reference: Numbers, candidate: Numbers, labels: Mapping[str, Numbers], check: BatchCheck
    ) -> None:
        if reference.shape[0] == 0:
            return
        flat = (len(reference), -1)
        r, c = reference.reshape(flat), candidate.reshape(flat)
        score = self._outputs[name].kind is OutputKind.SCORE
        if score:
            if not self._fits_columns(name, r.shape[1], check):
                return
            for column, accumulator in enumerate(self._accumulators[name]):
                accumulator.update(r[:, column], c[:, column])
        else:
            self._accumulators[name][0].update(reference, candidate)
        self._compared[name] += len(reference)
        mean, largest = absolute_errors(r, c)
        self._slices.update(name, labels, mean)
        self._worst.update(name, r, c, largest, start=self._samples, columns=score and r.shape[1] > 1)

    def _fits_columns(self, name: str, width: int, check: BatchCheck) -> bool:
        """Whether a score has as many columns as in its first batch, which decides."""
        columns = self._accumulators[name]
        if not columns:
            columns.extend(ScoreColumn(span=self._outputs[name].span) for _ in range(width))
        if len(columns) == width:
            return True
        check.note(name, f"{width} columns, where the first batch has {len(columns)}")
        return False

    def result(self) -> ComparisonResult:
        """What was measured so far; more batches may follow."""
        return ComparisonResult(
            samples=self._samples,
            measurements=tuple(m for name in self._outputs for m in self._measure(name)),
            defects=self._log.sentences(),
            slices=self._slices.result(),
            worst=self._worst.result(),
        )

    def _measure(self, name: str) -> list[Measurement]:
        n = self._compared[name]
        columns = [accumulator.readings() for accumulator in self._accumulators[name]]
        found: list[Measurement] = []
        for metric in metrics_of(self._outputs[name].kind):
            readings = [_require(metric, column.get(metric.name), n) for column in columns or [{}]]
            found.append(_measurement(name, None, metric, _worst_of(metric, readings)))
            if len(readings) > 1:
                found.extend(_measurement(name, i, metric, reading) for i, reading in enumerate(readings))
        return found


def _make_accumulators(spec: OutputSpec, reference_range: tuple[float, float] | None) -> list[Accumulator]:
    if spec.kind is OutputKind.SCORE:
        return []  # One per column, once the first batch has shown how many there are.
    if spec.kind in _RANGED:
        return [TensorMoments(reference_range)]
    return [ClassAgreement(logits=spec.kind is OutputKind.LOGITS)]


def _require(metric: Metric, reading: Reading | None, n: int) -> Reading:
    if n == 0 or reading is None:
        return read(None, n, "no sample could be compared")
    if n < metric.least_n:
        return read(None, n, f"undefined on fewer than {metric.least_n} samples")
    return reading


def _worst_of(metric: Metric, readings: Sequence[Reading]) -> Reading:
    if len(readings) == 1:
        return readings[0]
    for column, reading in enumerate(readings):
        if reading.value is None:
            return read(None, reading.n, f"column {column}: {reading.note}")
    sign = 1.0 if metric.direction is Direction.HIGHER_IS_BETTER else -1.0
    column = min(range(len(readings)), key=lambda i: sign * (readings[i].value or 0.0))
    note = f"column {column}, the worst of {len(readings)}"
    return read(readings[column].value, readings[column].n, "; ".join(filter(None, (note, readings[column].note))))


def _measurement(output: str, column: int | None, metric: Metric, reading: Reading) -> Measurement:
    return Measurement(
        output=output, column=column, metric=metric.name, value=reading.value, n=reading.n, note=reading.note
    )
