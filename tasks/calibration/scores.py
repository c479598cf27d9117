"""What the reference makes of each sample, for a draw that looks for the tails of its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import onnx_files
from tasks.calibration.activations import scores_of
from tasks.child import call_in_child
from tasks.feeds import split_batches
from tasks.npz import load_arrays, shard_paths
from tasks.onnx_check import open_session
from tasks.specs import Dim, Frozen, OutputDeclaration

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tasks.records import DataArtifact, ExportedModel
    from tasks.specs import ModelSpec
    from tasks.workbench import Workbench


class ScoreRequest(Frozen):
    """The exported reference and a folder of input shards; the scores go to the file `output`."""

    onnx: str
    inputs: str
    output: str
    batch: Dim
    outputs: dict[str, OutputDeclaration]


class ScoreReply(Frozen):
    """What the scores are of: the first output's, or its confidence."""

    name: str


def score_samples(
    bench: Workbench, exported: ExportedModel, spec: ModelSpec, data: DataArtifact
) -> NDArray[np.float64]:
    """The reference's first score, or the confidence of its first choice, for each sample of `data`, `[n]`.

    Raises:
        StageError: the reference cannot be run.
    """
    with bench.store.scratch() as folder:
        request = ScoreRequest(
            onnx=str(onnx_files.fetched_model(bench.store.fetch(exported.onnx, folder / "onnx"))),
            inputs=str(bench.store.fetch(data.inputs, folder / "inputs")),
            output=str(folder / "scores.npy"),
            batch=spec.dims[spec.batch_dim].without_buckets(),
            outputs=spec.outputs,
        )
        call_in_child(
            "tasks.calibration.scores:score_in_child",
            request,
            ScoreReply,
            folder,
            time_limit_s=bench.time_limit_s,
            on_progress=bench.on_progress,
        )
        return np.asarray(np.load(request.output, allow_pickle=False))


def score_in_child(raw: dict[str, Any], progress: Callable[[int, int], None]) -> ScoreReply:
    """Child entry: serve a ScoreRequest."""
    request = ScoreRequest.model_validate(raw)
    session = open_session(Path(request.onnx))
    names = [value.name for value in session.get_outputs()]
    paths, name = shard_paths(Path(request.inputs)), ""
    parts: list[NDArray[np.float64]] = []
    for number, path in enumerate(paths):
        for feeds, real in split_batches(load_arrays(path), request.batch):
            found = dict(zip(names, session.run(names, feeds), strict=True))
            scores = scores_of(found, request.outputs)
            name = next(iter(scores))
            parts.append(scores[name][:real])
        progress(number + 1, len(paths))
    np.save(request.output, np.concatenate(parts))
    return ScoreReply(name=name)
