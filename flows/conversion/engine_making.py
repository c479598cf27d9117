"""Makes one engine on this host: build, compare, judge and benchmark. `engine_flow` has it as a flow of Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import label_of
from flows.conversion.believed_build import build_believed
from flows.runners.gpu_lock import hold_target
from flows.stage import run_stage
from tasks.errors import InputError, StageError
from tasks.records import EngineJob, EngineOutcome
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
    made = build_believed(session, job)
    if made.engine is None or made.verdict is None:
        return made
    try:
        benchmark = run_stage(session, f"benchmark {label}", benchmark_engine, _describe_benchmark, job, made.engine)
    except (InputError, StageError) as error:
        return made.model_copy(update={"reason": str(error), "verdict": None, "outcome": Outcome.FAIL})
    return made.model_copy(update={"benchmark": benchmark})


def _describe_benchmark(timed: Benchmark) -> str:
    return f"p50 {timed.headline.p50_ms:.2f} ms at batch {timed.headline_batch}"
