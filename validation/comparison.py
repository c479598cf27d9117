"""Compares a candidate's outputs with the reference's, batch by batch, in bounded memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Accumulator, Mask
from validation.bootstrap import Bootstrap
from validation.breakdowns import SliceError, SliceErrors, WorstSample, WorstSamples
from validation.defects import BatchCheck, DefectLog, count_samples
from validation.elements import Numbers, element_sums, unmasked
from validation.groups import GroupNumbers, Members, Numbering
from validation.kinds import KINDS, Making
from validation.measurements import Measurement, Place, measurements_of
from validation.metrics import Metric, metrics_of
from validation.misfits import classes_last, find_misfit
from validation.outputs import OutputKind, OutputSpec
from validation.units import Floats

__all__ = ["Comparison", "ComparisonResult", "Hidden", "Measurement", "Population"]

_NONE: Mapping[str, Numbers] = MappingProxyType({})
_NO_SLICES: Mapping[str, Mapping[str, Collection[str]]] = MappingProxyType({})
_BLOCK = 1 << 18  # elements of an output that are worked on at once


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """How much of an output its mask leaves out: of all `positions`, those `hidden`."""

    output: str
    hidden: int
    positions: int


@dataclass(frozen=True, kw_only=True)
class Population:
    """A score whose `columns` are so many that they are judged together."""

    output: str
    columns: int


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """All that was measured; `samples` counts those seen, fit to compare or not.

    `independent` counts the independent ones among them, where that differs; `hidden` has an entry for each output
    with a mask, and `populations` one for each score that is one. The bounds hold at one-sided `confidence`, by
    `resamples` resamples.
    """

    samples: int
    confidence: float
    resamples: int
    measurements: tuple[Measurement, ...]
    defects: tuple[str, ...]
    slices: tuple[SliceError, ...]
    worst: tuple[WorstSample, ...]
    independent: int | None = None
    hidden: tuple[Hidden, ...] = ()
    populations: tuple[Population, ...] = ()


class Comparison:
    """Takes batches of reference and candidate outputs, and measures them.

    `outputs` declares every output. `by` names, for an output and a slice, the metrics that are measured in each value
    of the slice. `plan` says how sure the bounds are to be. `group_sizes` are the rows of each group, by its number,
    where samples belong to groups (see `groups`): then every batch comes with the groups of its rows.

    Raises:
        ValueError: when no output is declared.
    """

    def __init__(
        self,
        outputs: Mapping[str, OutputSpec],
        *,
        by: Mapping[str, Mapping[str, Collection[str]]] = _NO_SLICES,
        plan: Bootstrap | None = None,
        group_sizes: GroupNumbers | None = None,
    ) -> None:
        if not outputs:
            raise ValueError("outputs: none declared; declare at least one output to compare")
        self._outputs = dict(outputs)
        self._by = by
        self._plan = plan or Bootstrap()
        self._weights = None if group_sizes is None else 1.0 / group_sizes
        self._numberings: dict[Place, Numbering] = {}
        self._rows: dict[tuple[str, Place], int] = {}
        self._hidden: dict[str, NDArray[np.int64]] = {}
        self._accumulators: dict[str, dict[Place, list[Accumulator]]] = {name: {} for name in outputs}
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
        groups: GroupNumbers | None = None,
    ) -> None:
        """Take in one batch: arrays by output, first axis the samples, in the same order on both sides.

        Never raises for what a model may yield: an output that cannot be compared is noted as a defect and left out of
        this batch. `slices` holds one label per sample `[n]` of text, whole numbers, floats or booleans. `label` is
        what is right: the score, or the number of the class. `masks` holds what outputs name as their mask. `groups`
        are the numbers of the samples' groups `[n]`.

        Raises:
            ValueError: `groups` are missing, or not wanted, or not one a sample.
        """
        start, count = self._samples, count_samples(reference, candidate, self._outputs)
        self._require_groups(groups, count)
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
            sides = (reference[name], candidate[name])
            r, c = (classes_last(spec, side) if isinstance(side, np.ndarray) else side for side in sides)
            mask = None if spec.mask is None else check.mask(name, spec, masks, r)
            unusable = spec.mask is not None and mask is None
            fits = unusable or self._of_their_kind(name, *sides, mask, check)
            if fits and check.pair(name, r, c, mask) and not unusable and len(r):
                self._compare(name, _Batch(r, c, labels, right, mask, groups), check)
        self._samples += count

    def _of_their_kind(self, name: str, reference: Numbers, candidate: Numbers, mask: Mask, check: BatchCheck) -> bool:
        """Whether both sides are what their kind holds; what is against it is noted."""
        fits = True
        for side, array in (("reference", reference), ("candidate", candidate)):
            mask_axes = None if mask is None else mask.ndim
            numbers = isinstance(array, np.ndarray) and array.ndim > 0
            misfit = find_misfit(self._outputs[name], array, mask_axes) if numbers else None
            if misfit is not None:
                check.note(name, f"the {side} {misfit}", problem=f"kind of the {side}")
                fits = False
        return fits

    def _require_groups(self, groups: GroupNumbers | None, count: int) -> None:
        wanted = None if self._weights is None else (count,)
        if (None if groups is None else groups.shape) != wanted:
            raise ValueError(f"groups: {'none' if groups is None else groups.shape} where {wanted or 'none'} is wanted")
        if groups is not None:
            self._numberings.setdefault(None, Numbering()).number(groups)

    def _first_slices(self, slices: Mapping[str, Numbers]) -> frozenset[str]:
        """The slices of the first batch, which all must have."""
        if self._slice_names is None:
            self._slice_names = frozenset(slices)
        return self._slice_names

    def _compare(self, name: str, batch: "_Batch", check: BatchCheck) -> None:
        reference = batch.reference
        width = KINDS[self._outputs[name].kind].width(reference)
        if self._width.setdefault(name, width) != width:
            check.note(name, f"{width} columns, where the first batch has {self._width[name]}")
            return
        batch = replace(batch, label=self._fitting_label(name, reference, batch.label, check))
        step = max(1, _BLOCK // max(1, int(np.prod(reference.shape[1:]))))
        for first in range(0, len(reference), step):  # so that what is made of a part stays small
            self._take(name, self._samples + first, batch.at(slice(first, first + step)))
        if batch.mask is not None:
            counts = np.array([int((~batch.mask).sum()), batch.mask.size])
            self._hidden[name] = self._hidden.get(name, 0) + counts
        self._compared[name] += len(reference)

    def _take(self, name: str, first: int, part: "_Batch") -> None:
        """Take in a part of a batch, whose first sample is number `first`."""
        self._accumulate(name, None, part)
        sums, largest = self._element_errors(name, part)
        errors = sums["abs"] / np.maximum(sums["elements"], 1.0)
        for slice_name, values in part.labels.items():
            for value in np.unique(values).tolist():
                place, rows = (slice_name, str(value)), values == value
                groups = None if part.groups is None else part.groups[rows]
                self._slices.add(name, place, errors[rows], self._members(place, groups))
                if slice_name in self._by.get(name, {}):
                    self._accumulate(name, place, part.at(rows))
        r, c = (unmasked(side, part.mask) for side in (part.reference, part.candidate))
        columns = self._outputs[name].kind is OutputKind.SCORE and self._width[name] > 1
        self._worst.update(name, r, c, largest, start=first, columns=columns)

    def _element_errors(self, name: str, part: "_Batch") -> tuple[Mapping[str, Floats], Floats]:
        """See `element_sums`; elements that are names are wrong by 1, whatever their numbers."""
        if not KINDS[self._outputs[name].kind].are_names:
            return element_sums(part.reference, part.candidate, part.mask)
        differ = part.reference != part.candidate
        return element_sums(np.zeros_like(differ), differ, part.mask)

    def _members(self, place: Place, groups: GroupNumbers | None) -> Members | None:
        if groups is None or self._weights is None:
            return None
        return Members(self._numberings.setdefault(place, Numbering()).number(groups), self._weights[groups])

    def _fitting_label(self, name: str, reference: Numbers, label: Numbers | None, check: BatchCheck) -> Numbers | None:
        """The label, if it is one of this output: of each score, or of each position of classes."""
        row = KINDS[self._outputs[name].kind]
        fits = label is not None and row.takes_label(label.shape, reference.shape)
        if self._labels.setdefault(name, fits) != fits:
            check.note(name, "labels that fit this output in some batches only", problem="labels")
        return label if fits and self._labels[name] else None

    def _accumulate(self, name: str, place: Place, part: "_Batch") -> None:
        columns = self._accumulators[name].setdefault(place, [])
        with_label = self._labels[name]
        if with_label and part.label is None:
            return  # noted as a defect
        if not columns:
            keeps = not all(metric.sums for metric in self._metrics(name, place))
            spec, width = self._outputs[name], self._width[name]
            making = Making(spec=spec, first=part.reference, width=width, with_label=with_label, keeps=keeps)
            columns.extend(KINDS[spec.kind].make(making))
        reference, candidate, label, members = (
            part.reference,
            part.candidate,
            part.label,
            self._members(place, part.groups),
        )
        self._rows[name, place] = self._rows.get((name, place), 0) + len(reference)
        if self._outputs[name].kind is not OutputKind.SCORE:
            columns[0].update(reference, candidate, label=label, mask=part.mask, members=members)
            return
        flat = (len(reference), -1)
        wanted = None if label is None else label.reshape(flat)
        if self._is_population(name, columns):
            sides = (side.reshape(flat) for side in (reference, candidate))
            columns[0].update(*sides, label=wanted, mask=part.mask, members=members)
            return
        for column, accumulator in enumerate(columns):
            accumulator.update(
                reference.reshape(flat)[:, column],
                candidate.reshape(flat)[:, column],
                label=None if wanted is None else wanted[:, column],
                mask=part.mask,
                members=members,
            )

    def _is_population(self, name: str, columns: Sequence[Accumulator]) -> bool:
        return self._outputs[name].kind is OutputKind.SCORE and 0 < len(columns) < self._width[name]

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
            independent=None if self._weights is None else self._numberings.setdefault(None, Numbering()).count,
            hidden=tuple(
                Hidden(output=name, hidden=int(hidden), positions=int(positions))
                for name, (hidden, positions) in self._hidden.items()
            ),
            populations=tuple(
                Population(output=name, columns=self._width[name])
                for name, places in self._accumulators.items()
                if self._is_population(name, places.get(None, []))
            ),
        )

    def _measure(self, name: str) -> list[Measurement]:
        places = self._accumulators[name] or {None: []}
        found: list[Measurement] = []
        for place in sorted(places, key=lambda each: each or ("", "")):
            wanted = self._metrics(name, place)
            names = {metric.name for metric in wanted}
            columns = [accumulator.readings(self._plan, names) for accumulator in places[place]]
            rows = None if self._weights is None else self._rows.get((name, place), 0)
            for metric in wanted:
                found.extend(measurements_of(name, place, metric, columns, rows))
        return found

    def _metrics(self, name: str, place: Place) -> list[Metric]:
        """What is measured of an output: all that its kind has, but in the values of a slice what is asked for."""
        every = metrics_of(self._outputs[name].kind)
        return [metric for metric in every if place is None or metric.name in self._by[name][place[0]]]


@dataclass(frozen=True)
class _Batch:
    """What a batch holds of one output, and of its samples."""

    reference: Numbers
    candidate: Numbers
    labels: Mapping[str, NDArray[np.str_]]
    label: Numbers | None
    mask: Mask
    groups: GroupNumbers | None

    def at(self, rows: Any) -> "_Batch":
        """Some of its samples: a slice, or a mask of them."""
        return _Batch(
            self.reference[rows],
            self.candidate[rows],
            {name: values[rows] for name, values in self.labels.items()},
            None if self.label is None else self.label[rows],
            None if self.mask is None else self.mask[rows],
            None if self.groups is None else self.groups[rows],
        )
