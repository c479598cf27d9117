"""Makes one engine on this host: build, compare, judge and benchmark. `engine_flow` has it as a flow of Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import label_of
from flows.conversion.believed_build import build_believed
from flows.runners.gpu_lock import hold_target
from flows.stage import run_stage
from tasks.backends import backend_of
from tasks.backends.interface import REFIT
from tasks.errors import EnginegateError, InputError, StageError
from tasks.records import EngineJob, EngineOutcome
from tasks.release.refit_base import take_registered
from tasks.stages.benchmark import benchmark_engine
from tasks.torch_side.torch_python import torch_versions
from validation.verdict import Outcome

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.timings import Benchmark


def make_here(session: Session, job: EngineJob) -> EngineOutcome:
    """Make and judge an engine on this host's GPU, which is held meanwhile.

    The verdict is provisional (see `verdicts`). An engine that cannot be built or run is a `fail` with the reason.

    Raises:
        RefusedError: this host is not the job's target.
    """
    with hold_target(job.cell.target):
        return _make(session, job)


def failed(job: EngineJob, reason: str) -> EngineOutcome:
    """The outcome of an engine that could not be made."""
    return EngineOutcome(cell=job.cell, outcome=Outcome.FAIL, typed=job.typed, policy=job.policy, reason=reason)


def _make(session: Session, job: EngineJob) -> EngineOutcome:
    label = label_of(job.cell)
    try:
        if session.settings.torch_python is not None:  # where it lacks a package, before the build and not after
            torch_versions(session.settings.torch_python)
    except (InputError, StageError) as error:
        return failed(job, str(error))
    _begin_at_registered(session, job)
    made = build_believed(session, job)
    if made.engine is None or made.verdict is None:
        return made
    try:
        benchmark = run_stage(session, f"benchmark {label}", benchmark_engine, _describe_benchmark, job, made.engine)
    except (InputError, StageError) as error:
        return made.model_copy(update={"reason": str(error), "verdict": None, "outcome": Outcome.FAIL})
    return made.model_copy(update={"benchmark": benchmark})


def _begin_at_registered(session: Session, job: EngineJob) -> None:
    """Have the registered engine in the store that new weights could be put into; without it, the engine is built."""
    if REFIT not in backend_of(job.cell.runtime).options(job.spec.build, job.cell.precision):
        return
    try:
        taken = take_registered(session.stage_context(), session.registry, job.cell)
    except (EnginegateError, OSError) as error:
        session.reporter.say(f"! {label_of(job.cell)}: no registered engine to refit could be read: {error}")
    else:
        if taken is not None:
            session.reporter.say(f"  {label_of(job.cell)}: {taken} fetched, to be refitted if the graph is the same")


def _describe_benchmark(timed: Benchmark) -> str:
    return f"p50 {timed.headline.p50_ms:.2f} ms at batch {timed.headline_batch}"
