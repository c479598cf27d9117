"""Reads what a conversion left in its store, for a second opinion on a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.artifact import Artifact
from tasks.samples.npz import load_arrays, shard_paths
from tests.zoo.oracle import Array, Opinion, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.store.interface import ArtifactStore


def judge_kept(store: ArtifactStore, outputs: Mapping[str, Mapping[str, Any]], precision: str) -> Opinion | None:
    """The opinion on the engine of a precision, of the one model whose conversion the store has seen; None without."""
    built = next((each for each in _records(store, "build") if each["key"]["precision"][0] == precision), None)
    if built is None:
        return None
    run = next(each for each in _records(store, "run") if each["key"]["plan"] == built["result"]["plan"]["digest"])
    (reference,) = (each["result"]["outputs"] for each in _records(store, "reference"))
    inputs = next(
        each["result"]["inputs"]
        for each in _records(store, "ingest")
        if each["result"]["inputs"]["digest"] == run["key"]["inputs"]
    )
    sides = [_load(store, reference), _load(store, run["result"]["outputs"])]
    return judge(outputs, precision, (sides[0], sides[1]), _load(store, inputs))


def _records(store: ArtifactStore, stage: str) -> Iterator[Any]:
    return (store.read_record(stage, key) for key in store.list_records(stage))


def _load(store: ArtifactStore, artifact: Mapping[str, Any]) -> list[dict[str, Array]]:
    """The arrays of each shard."""
    with store.scratch() as folder:
        laid_out = store.fetch(Artifact.model_validate(artifact), folder / "shards")
        return [load_arrays(path) for path in shard_paths(laid_out)]
