"""Whether validation data are those that a registered engine was compared on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import InputError
from tasks.samples.npz import Arrays, load_arrays, shard_paths

if TYPE_CHECKING:
    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, EngineManifest

UNNAMED = (
    "its manifest, of an older release, does not name its validation data: their number and first samples are those of"
    " the registry, and labels and slices are taken as they are"
)


def needs_data(manifest: EngineManifest) -> str:
    """Which validation data an engine needs, and how they are given."""
    name = manifest.engine_id
    how = "give them with --data: the model directory, or the data that its model.yaml names"
    if manifest.data is None:
        samples = manifest.comparison.samples
        return f"{name}: needs its {samples:,} validation samples, which no registry holds; {how}"
    inputs, annotations = manifest.data.inputs.digest, manifest.data.annotations.digest
    return (
        f"{name}: needs its {manifest.data.samples:,} validation samples, which no registry holds and this store does"
        f" not have: inputs {inputs}, annotations {annotations}; {how}"
    )


def refuse_other_data(context: StageContext, manifest: EngineManifest, data: DataArtifact, given: str) -> None:
    """Check that data are those of an engine: by their digests, or of an older manifest by what the registry has.

    The reference's outputs and the smoke samples are in the store. `given` names the data for people.

    Raises:
        InputError: they are others.
    """
    named = manifest.data
    if named is None:
        _refuse_by_samples(context, manifest, data, given)
        return
    for what in ("inputs", "annotations"):
        found, wanted = getattr(data, what).digest, getattr(named, what).digest
        if found != wanted:
            raise InputError(
                f"{manifest.engine_id}: was compared on {what} {wanted}, and {given} holds {found}; give the data as"
                " they were when it was converted, or convert the model again"
            )


def _refuse_by_samples(context: StageContext, manifest: EngineManifest, data: DataArtifact, given: str) -> None:
    with context.store.scratch() as folder:
        reference, inputs, smoke = (
            [load_arrays(path) for path in shard_paths(context.store.fetch(artifact, folder / name))]
            for name, artifact in _artifacts(manifest, data).items()
        )
    counts = [[len(next(iter(shard.values()))) for shard in shards] for shards in (reference, inputs)]
    if counts[0] != counts[1]:
        raise InputError(
            f"{manifest.engine_id}: was compared on {sum(counts[0]):,} samples, and {given} holds {sum(counts[1]):,},"
            " or of other shapes; give the data as they were when it was converted"
        )
    if not _begins_with(inputs[0], smoke[0]):
        raise InputError(
            f"{manifest.engine_id}: its first samples are others than those of {given}; give the data as they were when"
            " it was converted"
        )


def _artifacts(manifest: EngineManifest, data: DataArtifact) -> dict[str, Artifact]:
    return {"reference": manifest.reference_outputs, "inputs": data.inputs, "smoke": manifest.smoke.inputs}


def _begins_with(shard: Arrays, samples: Arrays) -> bool:
    return shard.keys() == samples.keys() and all(
        np.array_equal(shard[name][: len(samples[name])], samples[name]) for name in samples
    )
