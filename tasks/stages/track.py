"""Stage 6: a conversion and its engines into the tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.rebuild_records import TACTICS_FILE
from tasks.source_spec import PYTORCH
from tasks.store.digests import digest_json
from tasks.tracking.interface import ConversionRecord, EngineRecord, Tracker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.calibration.report import CalibrationReport
    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, EngineOutcome, ExportedModel, ReferenceArtifact


def describe_conversion(
    directory: ModelDirectory,
    version: str,
    source_commit: str | None,
    data: DataArtifact,
    exported: ExportedModel,
    calibration: CalibrationReport | None = None,
    accepted: str | None = None,
) -> ConversionRecord:
    """The parent run of a conversion, from what it was made of."""
    spec = directory.spec
    parameters = {
        "source": str(spec.source),
        "exporter": exported.recipe.get("exporter", spec.export.exporter),
        "opset": str(exported.opset),
        "onnx": exported.onnx.digest,
        "annotations": data.annotations.digest,
        "onnx_size_bytes": str(exported.onnx.size_bytes),
    }
    if spec.reference != PYTORCH:
        parameters["reference"] = spec.reference
    if spec.calibration is not None:
        parameters["calibration.method"] = spec.calibration.method.value
    if calibration is not None:
        parameters["calibration.set"] = calibration.name
        parameters["calibration.findings"] = str(len(calibration.findings))
    if accepted is not None:
        parameters["calibration.accepted"] = accepted
    return ConversionRecord(
        model=spec.name,
        version=version,
        source_commit=source_commit,
        parameters=parameters,
        validation_digest=data.inputs.digest,
        validation_samples=data.samples,
        outputs=spec.output_specs(),
        dims=spec.dims,
        calibration=calibration,
    )


def track_conversion(
    context: StageContext,
    tracker: Tracker,
    conversion: ConversionRecord,
    outcomes: Sequence[EngineOutcome],
    data: DataArtifact,
    reference: ReferenceArtifact,
) -> dict[str, str]:
    """Log a conversion, unless it is logged whole already; return run ids by engine id.

    Raises:
        StageError: the tracker cannot be reached or refuses.
    """
    known = tracker.find_runs(conversion, outcomes)
    if known is not None:
        return known
    # The tracker removes unfinished runs of the same conversion, so nobody else may be writing them.
    with (
        context.store.lock("track", digest_json([conversion.model, conversion.version])[-64:]),
        context.store.scratch() as folder,
    ):
        reference_outputs = context.store.fetch(reference.outputs, folder / "reference")
        annotations = context.store.fetch(data.annotations, folder / "annotations")
        records = [
            EngineRecord(
                outcome=outcome,
                reference=reference_outputs,
                candidate=_candidate(context, outcome, folder / str(number)),
                annotations=annotations,
                layers=_layers(context, outcome, folder / f"{number}-layers"),
                tactics=_tactics(context, outcome, folder / f"{number}-tactics"),
            )
            for number, outcome in enumerate(outcomes)
        ]
        return tracker.log_conversion(conversion, records)


def _candidate(context: StageContext, outcome: EngineOutcome, folder: Path) -> Path | None:
    return context.store.fetch(outcome.compared.outputs, folder) if outcome.compared is not None else None


def _layers(context: StageContext, outcome: EngineOutcome, folder: Path) -> Path | None:
    if outcome.benchmark is None or outcome.benchmark.layers is None:
        return None
    return next(context.store.fetch(outcome.benchmark.layers, folder).iterdir())


def _tactics(context: StageContext, outcome: EngineOutcome, folder: Path) -> dict[str, Path]:
    """The tactics files of an engine, and of the builds before it that were miscompiled."""
    found = {f"miscompiled-{number}": build.tactics for number, build in enumerate(outcome.miscompiled, start=1)}
    found["engine"] = None if outcome.engine is None else outcome.engine.tactics
    return {
        name: context.store.fetch(artifact, folder / name) / TACTICS_FILE
        for name, artifact in found.items()
        if artifact is not None
    }
