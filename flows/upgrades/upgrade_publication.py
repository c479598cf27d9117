"""Logs an upgraded engine and registers it beside the one that it was made of, without moving a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import label_of
from tasks.release.publish import describe_engine, publish_engine
from tasks.stages.track import track_conversion
from tasks.tracking.interface import ConversionRecord
from validation.verdict import Outcome

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.records import EngineJob, EngineManifest, EngineOutcome


def track_upgrade(session: Session, old: EngineManifest, job: EngineJob, outcome: EngineOutcome) -> str:
    """Log an upgrade as a conversion of the model, with what it was made of; return the engine's run id."""
    conversion = ConversionRecord(
        model=job.cell.model,
        version=job.cell.version,
        source_commit=old.source_commit,
        parameters={
            "upgrade of": old.engine_id,
            "onnx": job.typed.onnx.digest,
            "annotations": job.data.annotations.digest,
        },
        validation_digest=job.data.inputs.digest,
        validation_samples=job.data.samples,
        outputs=job.spec.output_specs(),
        dims=job.spec.dims,
    )
    runs = session.reporter.step(
        "track",
        lambda progress: track_conversion(
            session.stage_context(progress), session.tracker, conversion, [outcome], job.data, job.reference
        ),
        lambda _: f"MLflow experiment {conversion.model}",
    )
    return runs[outcome.cell.engine_id]


def publish_upgrade(
    session: Session,
    old: EngineManifest,
    job: EngineJob,
    outcome: EngineOutcome,
    *,
    mlflow_run: str,
    policy_floor: str | None,
) -> EngineManifest | None:
    """Register an engine that passed; keep one that was measured and did not, for an override.

    Returns:
        Its manifest; None where not everything was measured.

    Raises:
        RefusedError: the registry refuses it.
    """
    if outcome.verdict is None or outcome.benchmark is None:
        return None
    manifest = describe_engine(
        session.stage_context(),
        job.spec,
        outcome,
        job.data,
        job.reference,
        source_commit=old.source_commit,
        mlflow_run=mlflow_run,
        who=session.settings.actor,
        policy_floor=policy_floor,
    ).model_copy(
        update={
            "policy_origin": old.policy_origin,
            "fresh": old.fresh,
            "upgraded_from": old.engine_id,
            "again": job.again,
        }
    )
    if outcome.outcome is not Outcome.PASS:
        session.rejected.keep(manifest)
        return manifest
    session.reporter.step(
        f"register {label_of(outcome.cell)}",
        lambda progress: publish_engine(session.stage_context(progress), session.registry, manifest),
        lambda new: "registered; no channel points at it" if new else "registered before",
    )
    return manifest
