"""Measures how a calibration set compares with production, in a child process: it runs the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.calibration.activations import (
    MOST_CALIBRATED,
    MOST_RUN,
    Clipping,
    Ranges,
    WatchedModel,
    batches,
)
from tasks.calibration.features import feature_names, find_masks, sample_features, token_counts
from tasks.calibration.findings import FEWEST
from tasks.calibration.interface import DataSet, MeasureRequest
from tasks.calibration.near_copies import shared_in_words
from tasks.calibration.reference_scores import join_scores, scores_of
from tasks.calibration.report import FeatureDrift, Place, Resemblance, TokenCoverage
from tasks.errors import InputError
from tasks.samples.data_spec import SLICE, slices_in
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from validation.directions import combine
from validation.drift import TokenCounts, compare, stratum_weights, unseen_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Texts = NDArray[np.str_]
    Floats = NDArray[np.float32]

_PROGRESS = 4
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class _Side:
    """What is read of one data set: features [n, f], and the value of each stratum [n]."""

    features: Floats
    strata: dict[str, Texts]
    tokens: dict[Place, dict[str, TokenCounts]] = field(default_factory=dict)

    def places(self) -> dict[Place, NDArray[np.bool_]]:
        """All samples, and those of each value of each stratum."""
        found = {Place(): np.ones(len(self.features), dtype=bool)}
        for stratum, values in self.strata.items():
            for value in np.unique(values).tolist():
                found[Place(stratum=stratum, value=value)] = values == value
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples by stratum and value."""
        return {
            stratum: dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))
            for stratum, values in self.strata.items()
        }

    def cells(self, strata: Sequence[str]) -> list[str]:
        """The values of all strata of each sample, as one text."""
        rows = zip(*(self.strata[name].tolist() for name in strata), strict=True)
        return ["\0".join(row) for row in rows] if strata else [""] * len(self.features)


def measure_in_child(raw: dict[str, Any], progress: Callable[[int, int], None]) -> Resemblance:
    """Child entry: serve a MeasureRequest.

    Raises:
        InputError: a sample of the set, or a near copy of it, is in the validation data, or samples of one side differ
            in their strata.
        StageError: the reference cannot be run, or gives NaN or Inf.
    """
    request = MeasureRequest.model_validate(raw)
    _refuse_shared(request)
    progress(1, _PROGRESS)
    masks = find_masks(chain(*(_shards(side) for side in _sides(request))), request.inputs)
    ours, theirs = (_read(request, side, masks) for side in _sides(request))
    progress(2, _PROGRESS)
    names = feature_names(request.inputs, request.batch_dim, masks)
    joint = combine(ours.features, theirs.features) if len(names) > 1 else None
    if joint is not None:
        names = (*names, *(f"joint direction {number + 1}" for number in range(len(joint.loadings))))
        ours.features = np.concatenate([ours.features, joint.calibration], axis=1)
        theirs.features = np.concatenate([theirs.features, joint.sample], axis=1)
    rows = _compare(names, ours, theirs)
    progress(3, _PROGRESS)
    ran = None if request.onnx is None else _run_reference(request, request.onnx)
    return Resemblance(
        set_samples=request.calibration.samples,
        production_samples=request.production.samples,
        counts=ours.counts(),
        production_counts=theirs.counts(),
        features=(*rows, *(ran.features if ran else ())),
        tokens=tuple(_compare_tokens(ours, theirs)),
        ranges=tuple(ran.clipping.rows()) if ran else (),
        run=ran.samples if ran else None,
    )


def _sides(request: MeasureRequest) -> tuple[DataSet, DataSet]:
    return request.calibration, request.production


def _shards(data: DataSet) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    return (load_arrays(path) for path in shard_paths(data.inputs))


def _refuse_shared(request: MeasureRequest) -> None:
    if request.validation is None:
        return
    shared = shared_in_words(request.calibration.inputs, request.validation, request.inputs, request.batch_dim)
    if shared:
        raise InputError(shared)


def _read(request: MeasureRequest, data: DataSet, masks: frozenset[str]) -> _Side:
    features: list[Floats] = []
    strata: list[dict[str, Texts]] = []
    tokens: dict[Place, dict[str, list[TokenCounts]]] = {}
    for inputs, notes in zip(shard_paths(data.inputs), shard_paths(data.annotations), strict=True):
        shard, labels = load_arrays(inputs), slices_in(load_arrays(notes))
        features.append(_finite_features(shard, request, masks))
        strata.append({name: labels[name].astype(np.str_) for name in request.strata if name in labels})
        for place, counts in _tokens(shard, _Side(features[-1], strata[-1]), request, masks):
            for name, of_input in counts.items():
                tokens.setdefault(place, {}).setdefault(name, []).append(of_input)
    return _Side(
        features=np.concatenate(features),
        strata=_join_strata(strata, [len(part) for part in features]),
        tokens={
            place: {name: TokenCounts.total(parts) for name, parts in by_input.items()}
            for place, by_input in tokens.items()
        },
    )


def _finite_features(shard: Arrays, request: MeasureRequest, masks: frozenset[str]) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        found = sample_features(shard, request.inputs, request.batch_dim, masks)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=0))
    if bad.size:
        name = feature_names(request.inputs, request.batch_dim, masks)[bad[0]]
        samples = int((~np.isfinite(found).all(axis=1)).sum())
        raise InputError(
            f"calibration: {name} is beyond what 32-bit floats hold in {samples} samples; scale the input, or mend them"
        )
    return found


def _tokens(
    shard: Arrays, side: _Side, request: MeasureRequest, masks: frozenset[str]
) -> Iterator[tuple[Place, dict[str, TokenCounts]]]:
    """The tokens of a shard in each place; nothing is copied for a model without any."""
    if any("int" in spec.dtype and name not in masks for name, spec in request.inputs.items()):
        for place, rows in side.places().items():
            part = {name: array[rows] for name, array in shard.items()}
            yield place, token_counts(part, request.inputs, request.batch_dim, masks)


def _join_strata(parts: Sequence[Mapping[str, Texts]], sizes: Sequence[int]) -> dict[str, Texts]:
    """The values of each stratum in all shards.

    Raises:
        InputError: some shards lack a stratum that others have.
    """
    for name in sorted({name for part in parts for name in part}):
        lacking = sum(size for part, size in zip(parts, sizes, strict=True) if name not in part)
        if lacking:
            raise InputError(
                f"calibration: {SLICE}{name} is missing for {lacking:,} of {sum(sizes):,} samples of one data set;"
                " save it in every file, or in none"
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(names: Sequence[str], ours: _Side, theirs: _Side) -> list[FeatureDrift]:
    """Each feature in each place that both sides have; all samples weighed as production's strata are."""
    if not names:
        return []
    here, there = ours.places(), theirs.places()
    places = [place for place in here if place in there and min(here[place].sum(), there[place].sum()) >= FEWEST]
    weights, covered = _weights(ours, theirs)
    rows = []
    for place in places:
        left, right = here[place], there[place] & covered
        if right.sum() < FEWEST:
            continue
        weighing = weights[left] if weights[left].any() else None
        found = compare(ours.features[left], theirs.features[right], weighing, comparisons=len(names) * len(places))
        rows += [
            FeatureDrift(
                feature=name,
                place=place,
                psi=one.psi,
                psi_low=one.psi_low,
                ks=one.ks,
                ks_low=one.ks_low,
                set_samples=one.n_set,
                production_samples=one.n_sample,
            )
            for name, one in zip(names, found, strict=True)
        ]
    return rows


def _weights(ours: _Side, theirs: _Side) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Weights of the set's samples, and which of production's have only values of strata that the set has too.

    Values that the set lacks are gaps of coverage. Where it lacks only how values come together, as the street with
    the weakest readers, nothing else would tell: such samples of production stay in the comparison.
    """
    strata = [name for name in ours.strata if name in theirs.strata]
    covered = np.ones(len(theirs.features), dtype=bool)
    for name in strata:
        covered &= np.isin(theirs.strata[name], ours.strata[name])
    if covered.sum() < FEWEST:
        covered[:] = True
    own, other = ours.cells(strata), list(compress(theirs.cells(strata), covered))
    return (np.ones(len(own)) if set(own).isdisjoint(other) else stratum_weights(own, other)), covered


def _compare_tokens(ours: _Side, theirs: _Side) -> Iterator[TokenCoverage]:
    for place, by_input in ours.tokens.items():
        for name, counts in by_input.items():
            other = theirs.tokens.get(place, {}).get(name)
            if other is None or min(counts.samples, other.samples) < FEWEST or other.tokens.size == 0:
                continue
            if counts.tokens.size == 0:  # padding from end to end
                yield TokenCoverage(input=name, place=place, unseen=1.0, expected=0.0, beyond=1.0)
                continue
            found = unseen_tokens(counts, other)
            yield TokenCoverage(input=name, place=place, unseen=found.share, expected=found.expected, beyond=found.low)


@dataclass(frozen=True)
class _Ran:
    features: list[FeatureDrift]
    clipping: Clipping
    samples: tuple[int, int]


def _run_reference(request: MeasureRequest, onnx: Path) -> _Ran:
    """Run the reference on a part of both data sets: its scores, and the ranges of what INT8 quantizes."""
    folder = onnx.parent.parent / "watched"
    folder.mkdir()
    model, ranges = WatchedModel(onnx, folder), Ranges()
    own = _run(request, request.calibration, MOST_CALIBRATED, model, ranges.add)
    clipping = Clipping(ranges)
    other = _run(request, request.production, MOST_RUN, model, clipping.add)
    ours, theirs = own.side("the calibration set"), other.side("production")
    names = [f"output {name}" for name in own.scores[0]]
    if own.scores[0].keys() != other.scores[0].keys():
        join_scores([own.scores[0], other.scores[0]], "both data sets")  # says how they differ
    return _Ran(_compare(names, ours, theirs), clipping, (len(ours.features), len(theirs.features)))


@dataclass
class _Run:
    """Scores and strata of the samples of one side that the reference was run on, batch by batch."""

    scores: list[Mapping[str, NDArray[np.float64]]]
    strata: list[Mapping[str, Texts]]

    def side(self, where: str) -> _Side:
        """The scores as features."""
        scores = join_scores(self.scores, where)
        sizes = [len(next(iter(part.values()))) for part in self.scores]
        features = np.stack(list(scores.values()), axis=1)
        return _Side(np.clip(features, -_LARGEST, _LARGEST).astype(np.float32), _join_strata(self.strata, sizes))


def _run(request: MeasureRequest, data: DataSet, most: int, model: WatchedModel, watch: Callable[..., None]) -> _Run:
    found = _Run([], [])
    for batch in batches(data, most, request.batch, request.strata):
        outputs, tensors = model.run(batch)
        watch(tensors, batch)
        inputs = {name: array[: batch.real] for name, array in batch.feeds.items()}
        found.scores.append(scores_of(outputs, request.outputs, inputs))
        found.strata.append(batch.strata)
    return found
