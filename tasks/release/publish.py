"""Stage 7: an engine whose verdict is `pass` into the registry, byte for byte as it was compared.

One without a `pass` is described all the same and stays in the artifact store: a person may register it by an override.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tasks.backends.profiles import PROFILE_RULE
from tasks.errors import RefusedError
from tasks.objects.files import writing_to
from tasks.records import ComparedEngine, DataArtifact, EngineManifest, EngineOutcome, ReferenceArtifact
from tasks.registry.evidence import artifacts_of, policy_digest
from tasks.release.smoke import SmokeSource, take_smoke

if TYPE_CHECKING:
    from tasks.process.context import StageContext
    from tasks.registry.registry import Registry
    from tasks.specs import ModelSpec


def describe_engine(
    context: StageContext,
    spec: ModelSpec,
    outcome: EngineOutcome,
    data: DataArtifact,
    reference: ReferenceArtifact,
    *,
    source_commit: str | None,
    mlflow_run: str | None,
    who: str | None,
    policy_floor: str | None = None,
) -> EngineManifest:
    """What an engine is, with its smoke inputs in the store; `policy_floor` is the digest of what its policy was under.

    Raises:
        RefusedError: something was not measured, or another plan was compared.
    """
    typed, engine, compared = outcome.typed, outcome.engine, outcome.compared
    verdict, policy, benchmark = outcome.verdict, outcome.policy, outcome.benchmark
    if not (typed and engine and compared and verdict and policy and benchmark):
        raise _unmeasured(outcome)
    built = typed.half if typed.half is not None and engine.onnx == typed.half.onnx.digest else typed
    _refuse_another_plan(outcome.cell.engine_id, compared.plan, engine.plan.digest)
    return EngineManifest(
        engine_id=outcome.cell.engine_id,
        cell=outcome.cell,
        source_commit=source_commit,
        plan=engine.plan,
        onnx=built.onnx,
        half=None if typed.half is None or typed.half is built else typed.half.onnx,
        reference_outputs=reference.outputs,
        smoke=take_smoke(context.store, *_smoke_sources(data, reference, compared)),
        recipe=built.recipe,
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
        policy_digest=policy_digest(policy),
        policy_origin="default" if spec.validation.policy is None else "own",
        policy_floor=policy_floor,
        verdict=verdict,
        comparison=compared.comparison,
        compared=compared.plan,
        benchmark=benchmark,
        mlflow_run=mlflow_run,
        who=who,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        synthetic=spec.validation.synthetic,
        miscompiled=len(outcome.miscompiled),
        again=engine.again,
        data=data,
        fresh=reference.fresh,
        structure=engine.structure,
        refitted_from=engine.refitted_from,
        serving=spec.serving,
    )


def _unmeasured(outcome: EngineOutcome) -> RefusedError:
    name, why = outcome.cell.engine_id, outcome.reason
    return RefusedError(f"{name}: not everything was measured ({why}); it is not registered")


def _smoke_sources(data: DataArtifact, reference: ReferenceArtifact, compared: ComparedEngine) -> list[SmokeSource]:
    sources = [SmokeSource(data.inputs, reference.outputs, compared.outputs)]
    if reference.fresh is not None and compared.fresh is not None:
        sources.append(SmokeSource(reference.fresh.inputs, reference.fresh.outputs, compared.fresh.outputs))
    return sources


def _refuse_another_plan(engine_id: str, compared: str, built: str) -> None:
    if compared != built:
        raise RefusedError(
            f"{engine_id}: {compared} was compared, and {built} would be registered; an engine is registered byte for"
            " byte as it was compared. Convert again"
        )


def publish_engine(context: StageContext, registry: Registry, manifest: EngineManifest) -> bool:
    """Register an engine; return False if this very engine is registered already.

    Raises:
        RefusedError: it did not pass, a file of it is damaged, or the registry refuses it.
    """
    with context.store.scratch() as folder:
        with writing_to(folder):
            folders = {
                artifact.digest: context.store.fetch(artifact, folder / str(number))
                for number, artifact in enumerate(artifacts_of(manifest).values())
            }
        return registry.engines.publish(manifest, folders, context.on_progress)
