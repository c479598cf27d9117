"""Writes the data of a model directory: shards of validation samples, and a calibration set drawn by its rules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.calibration.draw import draw_set
from tasks.calibration.features import sample_digests
from tasks.declared import InputSpec
from tasks.imports.draft import BATCH
from tasks.samples.npz import save_shard, shard_paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.imports.split import Split
    from tasks.samples.npz import Arrays

SHARD_SAMPLES = 4096


def write_samples(folder: Path, groups: Sequence[Arrays]) -> None:
    """Write groups of samples to an empty folder, at most 4,096 samples a file."""
    number = 0
    for group in groups:
        for start in range(0, len(next(iter(group.values()))), SHARD_SAMPLES):
            save_shard(folder, number, {name: array[start : start + SHARD_SAMPLES] for name, array in group.items()})
            number += 1


def draw_calibration(
    out: Path, split: Split, inputs: Mapping[str, Mapping[str, Any]], *, name: str, source: str, seed: int
) -> int:
    """Draw a calibration set from a split's pool into the new folder `out`; return how many samples it has.

    Raises:
        InputError: the samples cannot be drawn from.
    """
    specs = {key: InputSpec.model_validate({**value, "shape": tuple(value["shape"])}) for key, value in inputs.items()}
    validation = {
        digest
        for group in split.validation
        for digest in sample_digests({key: group[key] for key in specs}, specs, BATCH)
    }
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pool-") as pool:
        write_samples(Path(pool), split.pool)
        manifest = draw_set(
            shard_paths(Path(pool)),
            out,
            size=split.size,
            by=split.by,
            inputs=specs,
            batch_dim=BATCH,
            validation_digests=validation,
            scores=None,
            seed=seed,
            name=name,
            source=source,
            resembles="../validation",
        )
    return manifest.samples
