"""Builds an engine and compares it, and builds it again where it was miscompiled (`tasks.stages.miscompiled`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import label_of
from flows.stage import run_stage
from tasks.errors import InputError, StageError
from tasks.records import BuiltEngine, ComparedEngine, EngineJob, EngineOutcome
from tasks.rule_view import samples_in_words, told_of_outputs
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.miscompiled import (
    describe_miscompiled,
    is_miscompiled,
    miscompiled_in_words,
    next_rebuild,
    witness_of,
)
from tasks.stages.pinned_tactics import pin_tactics
from tasks.stages.refit import PassedBuild, keep_passed
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.rebuild_records import MiscompiledBuild, Rebuild
    from validation.verdict import Verdict

SHORT = len("sha256:") + 12


def build_believed(session: Session, job: EngineJob) -> EngineOutcome:
    """The outcome of an engine as far as it was compared: its verdict without speed-ups, or why there is none.

    An engine that was miscompiled is built again, at most `session.settings.rebuilds` times, until one is not. The
    tactics of one that passes are pinned.
    """
    made = first = _attempt(session, job, None)
    builds: tuple[MiscompiledBuild, ...] = ()
    while (wrong := _miscompiled(session, job, made)) is not None:
        builds = (*builds, wrong)
        made = made.model_copy(update={"miscompiled": builds, "reason": miscompiled_in_words(builds, is_right=False)})
        session.reporter.say(f"! {label_of(job.cell)}: {made.reason}")
        if len(builds) > session.settings.rebuilds:
            return made
        again = _attempt(session, job, next_rebuild(builds))
        if again.verdict is None:  # its step told why; the engine that was compared stays
            return made
        made = again.model_copy(update={"miscompiled": builds})
    if made.outcome is not Outcome.PASS or first.engine is None or made.engine is None:
        return made
    pin_tactics(session.store, first.engine.cache_key, made.engine)
    _let_refit(session, job, made.engine)
    return made.model_copy(update={"reason": miscompiled_in_words(builds, is_right=True)})


def _let_refit(session: Session, job: EngineJob, engine: BuiltEngine) -> None:
    """Let later versions be refitted from an engine that passed, unless it was itself made so."""
    if engine.structure is not None and engine.refitted_from is None:
        typed = (job.typed, job.typed.half)
        onnx = next(one.onnx for one in typed if one is not None and one.onnx.digest == engine.onnx)
        keep_passed(session.store, engine.structure, PassedBuild(plan=engine.plan, onnx=onnx))


def _attempt(session: Session, job: EngineJob, rebuild: Rebuild | None) -> EngineOutcome:
    """Build and compare once; where that cannot be done, the outcome says why."""
    again = "" if rebuild is None else f", {rebuild.attempt + 1}"
    label = f"{label_of(job.cell)}{again}"
    made = EngineOutcome(cell=job.cell, outcome=Outcome.FAIL, typed=job.typed, policy=job.policy)
    try:
        engine = run_stage(session, f"build {label}", build_engine, _describe_build, job, rebuild)
        made = made.model_copy(update={"engine": engine})
        compared = run_stage(session, f"compare {label}", compare_engine, _describe_comparison, job, engine)
    except (InputError, StageError) as error:
        return made.model_copy(update={"reason": str(error)})
    verdict = _judge(job, compared)
    return made.model_copy(update={"compared": compared, "verdict": verdict, "outcome": verdict.outcome})


def _judge(job: EngineJob, compared: ComparedEngine) -> Verdict:
    return decide(job.policy, compared.comparison, precision=job.cell.precision.value)


def _miscompiled(session: Session, job: EngineJob, made: EngineOutcome) -> MiscompiledBuild | None:
    """What is kept of an engine that was miscompiled; None for one that was not, or that no witness could be had of."""
    if made.engine is None or made.verdict is None:
        return None
    witness = witness_of(job, made.engine, made.verdict)
    if witness is None:
        return None
    label, by = label_of(job.cell), witness.cell.runtime
    try:
        built = run_stage(session, f"witness {label}", build_engine, _describe_build, witness)
        compared = run_stage(session, f"witness {label}, compare", compare_engine, _describe_comparison, witness, built)
    except (InputError, StageError):
        session.reporter.say(f"! {label}: {by} cannot say whether the engine was miscompiled; its verdict stands")
        return None
    verdict = _judge(witness, compared)
    if not is_miscompiled(made.verdict, verdict):
        return None
    return describe_miscompiled(made.engine, made.verdict, built)


def _describe_build(built: BuiltEngine) -> str:
    refitted = "" if built.refitted_from is None else f", refitted from {built.refitted_from[:SHORT]}"
    return f"{built.backend.name} {built.backend.version}, {built.plan.size_bytes / 1e6:.1f} MB{refitted}"


def _describe_comparison(compared: ComparedEngine) -> str:
    return "; ".join((samples_in_words(compared.comparison), *told_of_outputs(compared.comparison)))
