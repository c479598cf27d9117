"""Runs the reference model and watches the tensors that INT8 will quantize: their ranges are what calibration finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper
from scipy.special import gammaln

from tasks.calibration.findings import FEWEST
from tasks.calibration.reference_scores import run_session
from tasks.calibration.report import Place, RangeCoverage
from tasks.errors import StageError
from tasks.graphs.custom_ops import copy_libraries
from tasks.graphs.onnx_check import open_session
from tasks.graphs.onnx_files import EXTERNAL_DATA_BYTES, read_model, write_model
from tasks.quantization.quantizable import find_quantizable, fold_transposed_weights, name_nodes
from tasks.samples.data_spec import slices_in
from tasks.samples.feeds import split_batches
from tasks.samples.npz import Arrays, load_arrays, shard_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tasks.calibration.interface import DataSet
    from tasks.declared import Dim


MOST_CALIBRATED, MOST_RUN = 1024, 192
"""Samples of a set, and of production, that the reference is run on, taken from all of it."""
RUN_BATCH = 8
SEED = 20261123
CONFIDENCE = 0.95
_BATCHES = Place(stratum="", value="batches")  # no stratum has that name
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Batch:
    """Inputs of some samples, how many of them are real, and the value of each stratum for those."""

    feeds: Arrays
    real: int
    strata: Mapping[str, np.ndarray[Any, np.dtype[np.str_]]]


def batches(data: DataSet, most: int, batch: Dim, strata: Sequence[str]) -> Iterator[Batch]:
    """At most `most` samples of a data set, in small batches: the same ones at each call.

    They are drawn, one from each of equal parts. Every so-manieth one would miss strata that take turns.
    """
    chosen = _choose(data.samples, most)
    small = batch.model_copy(update={"opt": max(batch.min, min(batch.max, RUN_BATCH)), "buckets": None})
    first = 0
    for inputs, notes in zip(shard_paths(data.inputs), shard_paths(data.annotations), strict=True):
        shard, labels = load_arrays(inputs), slices_in(load_arrays(notes))
        count = len(next(iter(shard.values())))
        rows = chosen[(chosen >= first) & (chosen < first + count)] - first
        first += count
        values = {name: labels[name][rows].astype(np.str_) for name in strata if name in labels}
        start = 0
        for feeds, real in split_batches({name: array[rows] for name, array in shard.items()}, small):
            yield Batch(feeds, real, {name: texts[start : start + real] for name, texts in values.items()})
            start += real


def _choose(samples: int, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    parts = min(most, samples)
    ends = np.arange(parts + 1, dtype=np.int64) * samples // max(1, parts)
    return np.random.default_rng(SEED).integers(ends[:-1], ends[1:])


class WatchedModel:
    """The exported model with the tensors that INT8 quantizes among its outputs."""

    def __init__(self, onnx: Path, folder: Path) -> None:
        model = read_model(onnx)
        fold_transposed_weights(model)
        name_nodes(model)
        graph = model.graph
        known = {value.name for value in (*graph.input, *graph.output)}
        self.outputs = [value.name for value in graph.output]
        self._inputs = {value.name for value in graph.input}
        self.tensors = find_quantizable(model).activations
        for name in self.tensors:
            if name not in known:
                graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        copy_libraries(onnx, folder)
        self._session = open_session(write_model(model, folder, external_bytes=EXTERNAL_DATA_BYTES))
        self._names = [value.name for value in self._session.get_outputs()]

    def run(self, batch: Batch) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
        """Outputs and watched tensors of a batch, by name; what fills the batch up is cut off.

        Raises:
            StageError: the graph cannot be run on it.
        """
        found = run_session(self._session, self._names, batch.feeds)
        found |= {name: batch.feeds[name] for name in self.tensors if name in self._inputs}
        fed = len(next(iter(batch.feeds.values())))
        real = {name: array[: batch.real] if array.shape[:1] == (fed,) else array for name, array in found.items()}
        return {name: real[name] for name in self.outputs}, {name: real[name] for name in self.tensors}


@dataclass
class Ranges:
    """The largest absolute value of each tensor in a calibration set, and how many samples and batches showed it."""

    largest: dict[str, float] = field(default_factory=dict)
    samples: Counter[Place] = field(default_factory=Counter)
    batches: int = 0

    def add(self, tensors: Mapping[str, np.ndarray[Any, Any]], batch: Batch) -> None:
        """Take in the tensors of a batch.

        Raises:
            StageError: one holds NaN or Inf.
        """
        for name, array in tensors.items():
            self.largest[name] = max(self.largest.get(name, 0.0), _largest(name, array, "the calibration set"))
        self.samples.update({place: int(rows.sum()) for place, rows in _places(batch)})
        self.batches += 1


class Clipping:
    """What cutting a tensor off at a calibration set's range does to production's values, and whether that is chance.

    Some of production lies beyond the largest of any set: of m samples k or more beyond n from the same source, with
    probability m! / (m - k)! * (n + m - k)! / (n + m)!, since the k largest must all be production's. Only what is
    rarer than 5 %, shared out over all tensors and places (Bonferroni), is evident. A tensor whose first axis is not
    the samples is counted by batches.
    """

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._largest = dict.fromkeys(ranges.largest, 0.0)
        self._sums: dict[str, dict[Place, Floats]] = {}
        self._samples: Counter[Place] = Counter()

    def add(self, tensors: Mapping[str, np.ndarray[Any, Any]], batch: Batch) -> None:
        """Take in the tensors of a batch.

        Raises:
            StageError: one holds NaN or Inf.
        """
        places = _places(batch)
        self._samples.update({place: int(rows.sum()) for place, rows in places})
        for name, array in tensors.items():
            if array.size == 0:
                continue
            losses, largest = self._losses(name, array)
            self._largest[name] = max(self._largest[name], largest)
            if len(array) == batch.real:
                for place, rows in places:
                    self._add(name, place, losses[:, rows].sum(axis=1))
            else:
                cut, whole, beyond, _ = losses.sum(axis=1)
                self._add(name, _BATCHES, np.array([cut, whole, float(beyond > 0), 1.0]))

    def _losses(self, name: str, array: np.ndarray[Any, Any]) -> tuple[Floats, float]:
        """By row, [4, n]: squares of what is cut off, and of all, whether any is, and 1; and the largest value."""
        largest, end = _largest(name, array, "production"), self._ranges.largest[name]
        rows = array.reshape(len(array), -1)
        losses = np.zeros((4, len(rows)))
        losses[1] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        losses[3] = 1.0
        if largest > end:
            beyond = np.maximum(np.abs(rows.astype(np.float64)) - end, 0.0)
            losses[0] = np.einsum("ij,ij->i", beyond, beyond)
            losses[2] = beyond.any(axis=1)
        return losses, largest

    def _add(self, name: str, place: Place, sums: Floats) -> None:
        places = self._sums.setdefault(name, {})
        places[place] = places.get(place, np.zeros(4)) + sums

    def rows(self) -> list[RangeCoverage]:
        """A row for each tensor, the most clipped first, and before all those where that is evident."""
        significance = (1 - CONFIDENCE) / max(1, sum(len(places) for places in self._sums.values()))
        rows = [self._row(name, places, significance) for name, places in self._sums.items()]
        return sorted(rows, key=lambda row: (not row.evident, -row.worst_clipped))

    def _row(self, name: str, places: Mapping[Place, Floats], significance: float) -> RangeCoverage:
        clipped = {place: sqrt(cut / whole) if whole > 0 else 0.0 for place, (cut, whole, _, _) in places.items()}
        evident = {
            place: chance_beyond(int(beyond), int(of), self._shown(place)) < significance
            for place, (_, _, beyond, of) in places.items()
        }
        worst = max(places, key=lambda place: (evident[place], clipped[place]))
        return RangeCoverage(
            tensor=name,
            set_largest=self._ranges.largest[name],
            production_largest=self._largest[name],
            clipped=clipped.get(Place(), clipped[worst]),
            worst=Place() if worst == _BATCHES else worst,
            worst_clipped=clipped[worst],
            evident=evident[worst],
        )

    def _shown(self, place: Place) -> int:
        """Samples of the set that the range in a place is judged by.

        In all, no more than what the stratum would come to that the set shows least of, beside production.
        """
        if place == _BATCHES:
            return self._ranges.batches
        ours, theirs = self._ranges.samples, self._samples
        if place != Place():
            return ours[place] or ours[Place()]
        parts = (part for part in theirs if part != place and ours[part] and theirs[part] >= FEWEST)
        return int(min([ours[place], *(theirs[place] * ours[part] / theirs[part] for part in parts)]))


def chance_beyond(beyond: int, production: int, shown: int) -> float:
    """The probability that so many of `production` samples or more lie beyond all of `shown` ones of the same source.

    >>> round(chance_beyond(1, 1, 3), 6)
    0.25
    """
    if beyond == 0:
        return 1.0
    both = production + shown
    logarithm = gammaln(production + 1) - gammaln(production - beyond + 1)
    return float(np.exp(logarithm + gammaln(both - beyond + 1) - gammaln(both + 1)))


def _places(batch: Batch) -> list[tuple[Place, np.ndarray[Any, np.dtype[np.bool_]]]]:
    everything = (Place(), np.ones(batch.real, dtype=bool))
    return [everything] + [
        (Place(stratum=stratum, value=value), values == value)
        for stratum, values in batch.strata.items()
        for value in np.unique(values).tolist()
    ]


def _largest(name: str, array: np.ndarray[Any, Any], where: str) -> float:
    found = max(float(array.max()), -float(array.min())) if array.size else 0.0
    if not isfinite(found):
        raise StageError(
            f"calibration: tensor {name} of the reference holds NaN or Inf in {where}, so INT8 has no range for it;"
            " leave out the samples that cause it, or mend the model"
        )
    return found
