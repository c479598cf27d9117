"""Work pools of Prefect, one a target: which there are, who works on them, and the flow runs that were sent there.

Prefect reads its settings when it is imported, and takes seconds: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
FLOW = "make-engine"
DEPLOY = "prefect deploy --all --prefect-file infra/prefect.yaml"
# Said each time, because a server on FastAPI 0.151 or newer takes no null for them, which is what is sent otherwise.
MOST = 200
FIRST = FlowRunSort.EXPECTED_START_TIME_ASC
UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def pool_of(target: str) -> str:
    """Name of the pool of a target's runners, and of the deployment that they serve."""
    return f"gpu-{target}"


@dataclass(frozen=True)
class Pool:
    """Who works on a pool: how many workers are online, and when one was last heard of."""

    online: int
    last_seen: datetime | None


def require_pool(client: SyncPrefectClient, pool: str) -> None:
    """See that Prefect knows a pool and the deployment that its workers serve.

    Raises:
        InputError: it does not, with the command that makes it.
    """
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        raise InputError(
            f"Prefect has no work pool {pool}; make it with `prefect work-pool create --type process {pool}`,"
            f" then `{DEPLOY}`"
        ) from None
    try:
        served = client.read_deployment_by_name(f"{FLOW}/{pool}").work_pool_name
    except ObjectNotFound:
        raise InputError(f"Prefect has no deployment {FLOW}/{pool}; make it with `{DEPLOY}`") from None
    if served != pool:
        raise InputError(f"Prefect's deployment {FLOW}/{pool} is on pool {served}; renew it with `{DEPLOY}`")


def read_pool(client: SyncPrefectClient, pool: str) -> Pool:
    """Who works on a pool now; nobody on one that is gone."""
    try:
        workers = client.read_workers_for_work_pool(pool, limit=MOST, offset=0)
    except ObjectNotFound:
        workers = []
    seen = [worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time is not None]
    return Pool(
        online=sum(worker.status is WorkerStatus.ONLINE for worker in workers), last_seen=max(seen, default=None)
    )


def send(pool: str, engine_id: str, job: str) -> UUID:
    """Send a job to a pool, as a sub-flow of the flow that runs; return the id of its flow run."""
    parameters = {"engine_id": engine_id, "job": job}
    run = run_deployment(f"{FLOW}/{pool}", parameters=parameters, flow_run_name=engine_id, tags=[engine_id], timeout=0)
    assert isinstance(run, FlowRun)  # noqa: S101 - a coroutine only where an event loop runs
    return run.id


def read_runs(client: SyncPrefectClient, ids: Iterable[UUID]) -> dict[UUID, FlowRun]:
    """Flow runs by id; one that was deleted is not among them."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(ids)))
    return {run.id: run for run in client.read_flow_runs(flow_run_filter=wanted, sort=FIRST, limit=MOST, offset=0)}


def runs_before(client: SyncPrefectClient, pool: str, run: FlowRun) -> int:
    """How many other flow runs of a pool are running, or were scheduled earlier than this one that waits."""
    others = client.read_flow_runs(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
        sort=FIRST,
        limit=MOST,
        offset=0,
    )
    return sum(other.id != run.id and _comes_before(other, run) for other in others)


def _comes_before(other: FlowRun, run: FlowRun) -> bool:
    if other.state is None or not other.state.is_scheduled():
        return True
    if other.expected_start_time is None or run.expected_start_time is None:
        return False
    return other.expected_start_time < run.expected_start_time
