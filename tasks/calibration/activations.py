"""Runs the reference model and watches the tensors that INT8 will quantize: their ranges are what calibration finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from tasks.calibration.report import Place, RangeCoverage
from tasks.converters.interface import CALIBRATION_BATCH
from tasks.converters.quantizable import find_quantizable, fold_transposed_weights
from tasks.data import slices_in
from tasks.feeds import split_batches
from tasks.npz import load_arrays, shard_paths
from tasks.onnx_check import open_session
from tasks.onnx_files import EXTERNAL_DATA_BYTES, read_model, write_model
from validation.outputs import OutputKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tasks.npz import Arrays
    from tasks.specs import Dim, OutputDeclaration

MOST_CALIBRATED, MOST_RUN = 1024, 256
"""Samples of a set, and of production, that the reference is run on, taken evenly from all of it."""
_MOST_COLUMNS = 16
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class DataFolders:
    """Shards of a data set on this host: inputs, and annotations alike in number and order."""

    inputs: Path
    annotations: Path


@dataclass(frozen=True)
class Batch:
    """Inputs of some samples, how many of them are real, and the value of each stratum for those."""

    feeds: Arrays
    real: int
    strata: Mapping[str, np.ndarray[Any, np.dtype[np.str_]]]


def batches(data: DataFolders, samples: int, most: int, batch: Dim, strata: Sequence[str]) -> Iterator[Batch]:
    """At most `most` of the `samples` of a data set, evenly chosen, in small batches."""
    step = max(1, -(-samples // most))
    small = batch.model_copy(update={"opt": max(batch.min, min(batch.max, CALIBRATION_BATCH)), "buckets": None})
    first = 0
    for inputs, notes in zip(shard_paths(data.inputs), shard_paths(data.annotations), strict=True):
        shard, labels = load_arrays(inputs), slices_in(load_arrays(notes))
        count = len(next(iter(shard.values())))
        rows = np.arange(-first % step, count, step)
        first += count
        chosen = {name: labels[name][rows].astype(np.str_) for name in strata if name in labels}
        start = 0
        for feeds, real in split_batches({name: array[rows] for name, array in shard.items()}, small):
            yield Batch(feeds, real, {name: values[start : start + real] for name, values in chosen.items()})
            start += real


class WatchedModel:
    """The exported model with the tensors that INT8 quantizes among its outputs."""

    def __init__(self, onnx: Path, folder: Path) -> None:
        model = read_model(onnx)
        fold_transposed_weights(model)
        graph = model.graph
        known = {value.name for value in (*graph.input, *graph.output)}
        self.outputs = [value.name for value in graph.output]
        self._inputs = {value.name for value in graph.input}
        self.tensors = find_quantizable(model).activations
        for name in self.tensors:
            if name not in known:
                graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        self._session = open_session(write_model(model, folder, external_bytes=EXTERNAL_DATA_BYTES))
        self._names = [value.name for value in self._session.get_outputs()]

    def run(self, batch: Batch) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
        """Outputs and watched tensors of a batch, by name; what fills the batch up is cut off."""
        found = dict(zip(self._names, self._session.run(self._names, batch.feeds), strict=True))
        found |= {name: batch.feeds[name] for name in self.tensors if name in self._inputs}
        fed = len(next(iter(batch.feeds.values())))
        real = {name: array[: batch.real] if array.shape[:1] == (fed,) else array for name, array in found.items()}
        return {name: real[name] for name in self.outputs}, {name: real[name] for name in self.tensors}


def scores_of(outputs: Mapping[str, np.ndarray[Any, Any]], kinds: Mapping[str, OutputDeclaration]) -> dict[str, Floats]:
    """Numbers of each sample `[n]` that tell what the model makes of it: scores, or the confidence of its choice."""
    found: dict[str, Floats] = {}
    for name, declaration in kinds.items():
        values = outputs[name].reshape(len(outputs[name]), -1).astype(np.float64)
        if declaration.kind is OutputKind.SCORE:
            columns = values.shape[1]
            for column in range(min(columns, _MOST_COLUMNS)):
                found[name if columns == 1 else f"{name}[{column}]"] = values[:, column]
        elif declaration.kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES}:
            found[f"{name} confidence"] = _confidence(outputs[name], logits=declaration.kind is OutputKind.LOGITS)
        else:
            found[f"{name} norm"] = np.sqrt((values * values).mean(axis=1))
    return found


def _confidence(values: np.ndarray[Any, Any], *, logits: bool) -> Floats:
    wide = values.astype(np.float64)
    if logits:
        shifted = np.exp(wide - wide.max(axis=-1, keepdims=True))
        wide = shifted / shifted.sum(axis=-1, keepdims=True)
    return np.asarray(wide.max(axis=-1).reshape(len(values), -1).mean(axis=1))


@dataclass
class Ranges:
    """The largest absolute value of each tensor in a calibration set."""

    largest: dict[str, float] = field(default_factory=dict)

    def add(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Take in the tensors of a batch."""
        for name, array in tensors.items():
            self.largest[name] = max(self.largest.get(name, 0.0), float(np.abs(array).max(initial=0.0)))


class Clipping:
    """What cutting a tensor off at a calibration set's range does to production's values."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges.largest
        self._largest = dict.fromkeys(ranges.largest, 0.0)
        self._sums: dict[tuple[str, Place], Floats] = {}

    def add(self, tensors: Mapping[str, np.ndarray[Any, Any]], batch: Batch) -> None:
        """Take in the tensors of a batch."""
        for name, array in tensors.items():
            if array.size == 0:
                continue
            size = np.abs(array).astype(np.float64)
            self._largest[name] = max(self._largest[name], float(size.max()))
            rows = size.reshape(len(size), -1)
            beyond = np.maximum(rows - self._ranges[name], 0.0)
            both = np.stack([(beyond * beyond).sum(axis=1), (rows * rows).sum(axis=1)])
            self._add(name, Place(), both)
            if len(size) != batch.real:  # its first axis is not the samples
                continue
            for stratum, values in batch.strata.items():
                for value in np.unique(values).tolist():
                    self._add(name, Place(stratum=stratum, value=value), both[:, values == value])

    def _add(self, name: str, place: Place, both: Floats) -> None:
        self._sums[name, place] = self._sums.get((name, place), np.zeros(2)) + both.sum(axis=1)

    def rows(self) -> list[RangeCoverage]:
        """A row for each tensor, the most clipped first."""
        places: dict[str, dict[Place, float]] = {}
        for (name, place), sums in self._sums.items():
            places.setdefault(name, {})[place] = _relative(*sums.tolist())
        rows = [self._row(name, found) for name, found in places.items()]
        return sorted(rows, key=lambda row: -row.worst_clipped)

    def _row(self, name: str, found: Mapping[Place, float]) -> RangeCoverage:
        worst = max(found, key=lambda place: found[place])
        return RangeCoverage(
            tensor=name,
            set_largest=self._ranges[name],
            production_largest=self._largest[name],
            clipped=found[Place()],
            worst=worst,
            worst_clipped=found[worst],
        )


def _relative(beyond: float, whole: float) -> float:
    """Norm of what is cut off over the norm of all; JSON has no infinity, and none comes up: beyond <= whole."""
    return sqrt(beyond / whole) if 0 < whole < inf else 0.0
