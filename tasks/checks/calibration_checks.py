"""Remarks on a calibration set: the parts of its check that need no run of the model."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import TYPE_CHECKING

from tasks.calibration.findings import find_age
from tasks.calibration.near_copies import shared_in_words
from tasks.checks.remarks import Remark, good, warning
from tasks.declared import Frozen
from tasks.errors import InputError
from tasks.model.set_manifest import age_days
from tasks.store.stage_cache import run_cached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.calibration.sets import CalibrationSet
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from tasks.specs import ModelSpec

SUBJECT = "calibration"
RECIPE = 1


class Shared(Frozen):
    """What a set shares with the validation data, in a sentence; empty where that is nothing."""

    sentence: str


def check_set_cheaply(
    context: StageContext,
    spec: ModelSpec,
    checked: CalibrationSet,
    data: DataArtifact,
    validation: DataArtifact | None,
    today: date | None = None,
) -> Iterator[Remark]:
    """Age of a set, and whether it holds validation samples; the rest is checked once the model has run.

    Raises:
        InputError: it holds samples of the validation data, or copies that are nearly the same.
    """
    name = checked.manifest.name
    if validation is not None:
        sentence = _shared(context, spec, data, validation)
        if sentence:
            raise InputError(sentence)
    yield good(SUBJECT, f"{name}: {data.samples:,} samples, of which none is validation data")
    age = age_days(checked.manifest, today or datetime.now(timezone.utc).date())
    for finding in find_age(age, checked.manifest.max_age_days):
        yield warning(SUBJECT, f"{name}: {finding.sentence}; nothing is quantized with it unless --accept-calibration")


def _shared(context: StageContext, spec: ModelSpec, data: DataArtifact, validation: DataArtifact) -> str:
    key: dict[str, object] = {
        "recipe": RECIPE,
        "set": data.inputs.digest,
        "validation": validation.inputs.digest,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
    }

    def produce(folder: Path) -> Shared:
        ours = context.store.fetch(data.inputs, folder / "set")
        theirs = context.store.fetch(validation.inputs, folder / "validation")
        return Shared(sentence=shared_in_words(ours, theirs, spec.inputs, spec.batch_dim))

    return run_cached(context.store, "shared samples", key, Shared, produce).result.sentence
