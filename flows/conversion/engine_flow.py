"""The flow that makes one engine, in this process or on a runner: a job from the store, an outcome into it."""

from __future__ import annotations

from prefect import flow, runtime

from flows.conversion.engine_making import failed, make_here
from flows.runners.handover import heartbeat, leave_outcome, take_job
from flows.session import current_session
from tasks.errors import EnginegateError
from tasks.records import EngineOutcome  # noqa: TC001 - Prefect resolves the hints of a flow


@flow(name="make-engine", flow_run_name="{engine_id}", persist_result=False)
def make_engine(engine_id: str, job: str) -> EngineOutcome:
    """Make and judge the engine whose job lies in the store as `job`; leave the outcome there, and return it.

    The verdict is provisional (see `verdicts`). An engine that cannot be built or run is a `fail` with the reason.

    Raises:
        RefusedError: this host is not the job's target, or what the job needs is not in the store unchanged.
    """
    session = current_session()
    run = str(runtime.flow_run.id)
    with heartbeat(session.store, run):
        work = take_job(session.store, engine_id, job)
        try:
            outcome = make_here(session, work)
        except EnginegateError as error:
            leave_outcome(session.store, run, failed(work, str(error)))
            raise
        leave_outcome(session.store, run, outcome)
    return outcome
