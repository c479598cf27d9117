"""What the reference makes of each sample: to compare data sets by, and for a draw that looks for the tails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.declared import Dim, Frozen
from tasks.errors import StageError
from tasks.graphs import onnx_files
from tasks.graphs.onnx_check import open_session
from tasks.samples.feeds import split_batches
from tasks.samples.npz import FIRST_INDICES, Arrays, load_arrays, shard_paths
from tasks.specs import ModelSpec, OutputDeclaration
from validation.elements import positions_of, unmasked
from validation.misfits import classes_last
from validation.outputs import OutputKind
from validation.statistics import log_probabilities, log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, ExportedModel

    Floats = NDArray[np.float64]
    Array = np.ndarray[Any, Any]

_MOST_COLUMNS = 16


class ScoreRequest(Frozen):
    """The exported reference and a folder of input shards; the scores go to the file `output`."""

    onnx: Path
    inputs: Path
    output: Path
    batch: Dim
    outputs: dict[str, OutputDeclaration]


def score_samples(context: StageContext, exported: ExportedModel, spec: ModelSpec, data: DataArtifact) -> Floats:
    """The reference's first score, or the confidence of its first choice, for each sample of `data`, `[n]`.

    Raises:
        StageError: the reference cannot be run, or gives NaN or Inf.
    """
    with context.store.scratch() as folder:
        request = ScoreRequest(
            onnx=onnx_files.fetched_model(context.store.fetch(exported.onnx, folder / "onnx")),
            inputs=context.store.fetch(data.inputs, folder / "inputs"),
            output=folder / "scores.npy",
            batch=spec.dims[spec.batch_dim].without_buckets(),
            outputs=spec.outputs,
        )
        context.call_in_child("tasks.calibration.reference_scores:score_in_child", request, int, folder)
        return np.asarray(np.load(request.output, allow_pickle=False))


def score_in_child(raw: dict[str, Any], progress: Callable[[int, int], None]) -> int:
    """Child entry: serve a ScoreRequest; return the number of scores.

    Raises:
        StageError: the reference cannot be run, or gives NaN or Inf.
    """
    request = ScoreRequest.model_validate(raw)
    session = open_session(request.onnx)
    names = [value.name for value in session.get_outputs()]
    paths, parts = shard_paths(request.inputs), []
    for number, path in enumerate(paths):
        for feeds, real in split_batches(load_arrays(path), request.batch):
            found = scores_of(run_session(session, names, feeds), request.outputs, feeds)
            parts.append({name: scores[:real] for name, scores in found.items()})
        progress(number + 1, len(paths))
    scores = next(iter(join_scores(parts, "the sample").values()))
    np.save(request.output, scores)
    return len(scores)


def run_session(session: Any, names: Sequence[str], feeds: Arrays) -> Arrays:
    """The named outputs of an ONNX Runtime session.

    Raises:
        StageError: it fails.
    """
    try:
        return dict(zip(names, session.run(list(names), feeds), strict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        raise StageError(f"calibration: ONNX Runtime cannot run the reference on {shapes}: {error}") from error


def join_scores(parts: Sequence[Mapping[str, Floats]], where: str) -> dict[str, Floats]:
    """The scores of all batches of a data set, `[n]` by name.

    Raises:
        StageError: batches differ in what they have, or a score is NaN or Inf.
    """
    for part in parts:
        if part.keys() != parts[0].keys():
            raise StageError(
                f"calibration: the reference gives {', '.join(parts[0])} for some samples of {where} and"
                f" {', '.join(part)} for others; a score has the same columns for all samples: declare another kind"
            )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in joined.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            first = ", ".join(map(str, bad[:FIRST_INDICES]))
            raise StageError(
                f"calibration: the reference's {name} is NaN or Inf for {bad.size} of the {values.size} samples of"
                f" {where} that it was run on (first: {first}); leave them out, or mend the model"
            )
    return joined


def scores_of(outputs: Arrays, kinds: Mapping[str, OutputDeclaration], inputs: Arrays) -> dict[str, Floats]:
    """Numbers of each sample, `[n]` by name, that tell what the model makes of it.

    The columns of a score, at most 16; the mean confidence of the first choice of classes; else the root of the mean
    square. What an output's mask in `inputs` calls padding is left out.

    Raises:
        StageError: a mask does not fit its output.
    """
    found: dict[str, Floats] = {}
    for name, declaration in kinds.items():
        values = outputs[name]
        if declaration.kind is OutputKind.SCORE:
            columns = values.reshape(len(values), -1).astype(np.float64)[:, :_MOST_COLUMNS]
            single = columns.shape[1] == 1
            found |= {name if single else f"{name}[{number}]": column for number, column in enumerate(columns.T)}
            continue
        values = classes_last(declaration.as_output_spec(), values)
        mask = _mask_of(name, declaration.mask, values, inputs)
        if declaration.kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LANGUAGE}:
            logits = declaration.kind is not OutputKind.PROBABILITIES
            found[f"{name} confidence"] = _confidence(values, mask, logits=logits)
        else:
            found[f"{name} norm"] = _norm(values, mask)
    return found


def _confidence(values: Array, mask: NDArray[np.bool_] | None, *, logits: bool) -> Floats:
    """One class alone is one of two, as for `validation.classes`: else its confidence would be 1 whatever it is."""
    classes = values.shape[-1] if values.ndim > 1 else 1
    wide = values.reshape(len(values), -1, classes).astype(np.float64)
    if classes == 1:
        wide = np.concatenate([np.zeros_like(wide) if logits else 1 - wide, wide], axis=-1)
    counted = positions_of(mask, values.shape)
    wide = np.where(counted[..., None], wide, 0.0)
    confidence = np.exp((log_softmax(wide) if logits else log_probabilities(wide)).max(axis=-1))
    return np.asarray(np.where(counted, confidence, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1))


def _norm(values: Array, mask: NDArray[np.bool_] | None) -> Floats:
    counted = np.broadcast_to(np.ones((), dtype=bool) if mask is None else _spread(mask, values.ndim), values.shape)
    squares = unmasked(values, mask).astype(np.float64) ** 2
    return np.asarray(np.sqrt(squares.sum(axis=1) / np.maximum(counted.reshape(len(values), -1).sum(axis=1), 1)))


def _mask_of(name: str, mask: str | None, values: Array, inputs: Arrays) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    found = inputs[mask]
    if found.shape != values.shape[: found.ndim]:
        raise StageError(
            f"calibration: outputs.{name}.mask: {mask} has shape {list(found.shape)}, the reference's {name}"
            f" {list(values.shape)}; name a mask of its samples or positions"
        )
    return np.asarray(found != 0)


def _spread(mask: NDArray[np.bool_], axes: int) -> NDArray[np.bool_]:
    return mask.reshape(mask.shape + (1,) * (axes - mask.ndim))
