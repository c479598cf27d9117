"""Stage 7: an engine whose verdict is `pass` into the registry, byte for byte as it was compared."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tasks.backends.profiles import PROFILE_RULE
from tasks.errors import RefusedError
from tasks.records import EngineManifest

if TYPE_CHECKING:
    from tasks.records import EngineOutcome, ReferenceArtifact
    from tasks.registry.interface import Registry
    from tasks.specs import ModelSpec
    from tasks.workbench import Workbench


def publish_engine(
    bench: Workbench,
    registry: Registry,
    spec: ModelSpec,
    outcome: EngineOutcome,
    reference: ReferenceArtifact,
    *,
    source_commit: str | None,
    mlflow_run: str | None,
) -> bool:
    """Register an engine; return False if this very engine is registered already.

    Raises:
        RefusedError: it did not pass, or something was not measured, or the registry refuses it.
    """
    manifest = _manifest(spec, outcome, reference, source_commit, mlflow_run)
    artifacts = (manifest.plan, manifest.onnx, manifest.reference_outputs)
    with bench.store.scratch() as folder:
        folders = {
            artifact.digest: bench.store.fetch(artifact, folder / str(number))
            for number, artifact in enumerate(artifacts)
        }
        return registry.publish(manifest, folders)


def _manifest(
    spec: ModelSpec,
    outcome: EngineOutcome,
    reference: ReferenceArtifact,
    source_commit: str | None,
    mlflow_run: str | None,
) -> EngineManifest:
    evidence = (outcome.typed, outcome.engine, outcome.compared, outcome.verdict, outcome.policy, outcome.benchmark)
    typed, engine, compared, verdict, policy, benchmark = evidence
    if not (typed and engine and compared and verdict and policy and benchmark):
        raise RefusedError(
            f"{outcome.cell.engine_id}: not everything was measured ({outcome.reason}); it is not registered"
        )
    if compared.plan != engine.plan.digest:
        raise RefusedError(
            f"{outcome.cell.engine_id}: {compared.plan} was compared, and {engine.plan.digest} would be registered;"
            " an engine is registered byte for byte as it was compared. Convert again"
        )
    return EngineManifest(
        engine_id=outcome.cell.engine_id,
        cell=outcome.cell,
        source_commit=source_commit,
        plan=engine.plan,
        onnx=typed.onnx,
        reference_outputs=reference.outputs,
        recipe=typed.recipe,
        calibration=outcome.calibration,
        dims=spec.dims,
        inputs=spec.inputs,
        outputs=spec.outputs,
        backend=engine.backend,
        options=engine.options,
        profiles=engine.profiles,
        profile_rule=PROFILE_RULE,
        cache_key=engine.cache_key,
        policy=policy,
        verdict=verdict,
        comparison=compared.comparison,
        benchmark=benchmark,
        mlflow_run=mlflow_run,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
