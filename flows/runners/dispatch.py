"""Sends engines to the runners of their targets, all at once, and collects what comes of them.

An engine runs here if its target is `cpu`; or if Prefect's server is a temporary one, which no worker can reach, and
this host has the target's GPU. Every other one becomes a flow run on its target's pool. A runner that dies is replaced;
only the outcome of the last run that was sent for an engine is ever taken, so none is registered twice.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Event
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from flows.prefect_api import require_configured_api
from flows.runners.handover import last_heartbeat, leave_job, take_outcome
from flows.runners.pools import Pool, pool_of, read_pool, read_runs, require_pool, runs_before, send
from tasks.backends import CPU
from tasks.backends.gpu import Gpu, find_gpu
from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.records import Cell, EngineJob, EngineOutcome
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun, State

    from flows.session import Session

POLL_S = 1.0
# From when a worker takes a run until the run's process gives its first heartbeat.
START_LIMIT_S = 300.0
SERVER_LIMIT_S = 300.0
MOST_RUNS = 3


def _connect() -> SyncPrefectClient:
    return get_client(sync_client=True)


@dataclass(frozen=True)
class Surroundings:
    """What a dispatch sees of the world: Prefect's server with its pools, and a clock."""

    connect: Callable[[], AbstractContextManager[SyncPrefectClient]] = _connect
    send: Callable[[str, str, str], UUID] = send
    read_runs: Callable[[SyncPrefectClient, list[UUID]], dict[UUID, FlowRun]] = read_runs
    read_pool: Callable[[SyncPrefectClient, str], Pool] = read_pool
    runs_before: Callable[[SyncPrefectClient, str, FlowRun], int] = runs_before
    now_s: Callable[[], float] = time.monotonic
    poll_s: float = POLL_S


REAL = Surroundings()


def targets_elsewhere(
    cells: Sequence[Cell],
    *,
    is_configured: Callable[[], bool] = require_configured_api,
    find: Callable[[], Gpu] = find_gpu,
) -> set[str]:
    """The targets of `cells` whose engines are made by runners; every other one is made in this process.

    Raises:
        InputError: a target has no runner that could be asked, with what to do about it.
    """
    targets = list(dict.fromkeys(cell.target for cell in cells if cell.target != CPU))
    if not targets:
        return set()
    if is_configured():
        with get_client(sync_client=True) as client:
            for target in targets:
                require_pool(client, pool_of(target))
        return set(targets)
    here = _target_here(find)
    lacking = [target for target in targets if target != here]
    if lacking:
        found = "no GPU that is a target" if here is None else f"target {here}"
        raise InputError(
            f"no runner for {', '.join(lacking)}: this host has {found}; (1) set PREFECT_API_URL to a server whose pool"
            f" {pool_of(lacking[0])} has a worker (infra/README.md),"
            f" (2) or convert on such a host, (3) or leave it out: --target {here or CPU}"
        )
    return set()


def _target_here(find: Callable[[], Gpu]) -> str | None:
    try:
        return find().target
    except StageError:
        return None


@dataclass
class _Errand:
    """An engine that is made elsewhere: the run that was sent last for it, and what is known of that."""

    job: EngineJob
    key: str
    pool: str
    run: UUID
    sent: int = 1
    shown: str = ""
    alone: tuple[float, datetime] | None = None
    """Since when nobody works on the pool: by our clock for waiting, and for people."""
    sign: object = None
    sign_seen: float | None = None


@dataclass
class _Dispatch:
    session: Session
    around: Surroundings = REAL
    errands: list[_Errand] = field(default_factory=list)
    outcomes: list[EngineOutcome] = field(default_factory=list)
    stop: Event = field(default_factory=Event)

    def send(self, job: EngineJob) -> None:
        pool, key = pool_of(job.cell.target), leave_job(self.session.store, job)
        self.errands.append(_Errand(job, key, pool, self.around.send(pool, job.cell.engine_id, key)))
        self._show(self.errands[-1], f"sent to pool {pool}")

    def collect(self) -> list[EngineOutcome]:
        """Wait until every errand has its outcome, or `stop` is set."""
        heard = self.around.now_s()
        with self.around.connect() as client:
            while self.errands and not self.stop.wait(self.around.poll_s):
                try:
                    self._look(client)
                except (httpx.HTTPError, ObjectNotFound) as error:  # a server that restarts answers again
                    if self.around.now_s() - heard > SERVER_LIMIT_S:
                        raise EnginegateError(f"Prefect's server no longer answers: {error}; convert again") from None
                else:
                    heard = self.around.now_s()
        return self.outcomes

    def cancel(self) -> None:
        """Cancel what is not done; where the server or a run is gone, nothing is there to cancel."""
        if not self.errands:
            return
        with suppress(httpx.HTTPError), self.around.connect() as client:
            for errand in self.errands:
                with suppress(httpx.HTTPError, ObjectNotFound):
                    client.set_flow_run_state(errand.run, Cancelling(message="The conversion has ended."))

    def _look(self, client: SyncPrefectClient) -> None:
        runs = self.around.read_runs(client, [errand.run for errand in self.errands])
        pools = {errand.pool: self.around.read_pool(client, errand.pool) for errand in self.errands}
        for errand in list(self.errands):
            outcome = self._outcome(client, errand, runs.get(errand.run), pools[errand.pool])
            if outcome is not None:
                self.errands.remove(errand)
                self.outcomes.append(outcome)
                if outcome.is_settled:
                    self.session.reporter.verdict(outcome)
                else:
                    self._show(errand, "measured, to be judged with the other engines")

    def _outcome(
        self, client: SyncPrefectClient, errand: _Errand, run: FlowRun | None, pool: Pool
    ) -> EngineOutcome | None:
        """What came of an errand, or None while it is under way."""
        if run is None or run.state is None:
            return _ended(errand, f"its flow run on pool {errand.pool} was deleted")
        if run.state.is_final():
            return self._accept(errand, run.state)
        if run.state.is_scheduled():
            return self._wait(client, errand, run, pool)
        return self._watch(client, errand)

    def _accept(self, errand: _Errand, state: State) -> EngineOutcome | None:
        try:
            outcome = take_outcome(self.session.store, str(errand.run), errand.job)
        except RefusedError as error:
            return _ended(errand, str(error))
        if outcome is None and state.is_crashed():
            return self._again(errand, f"its runner died ({state.message})")
        said = "is ENGINEGATE_STORE there the same?" if state.is_completed() else state.message or state.name
        return outcome or _ended(errand, f"its run on pool {errand.pool} left no outcome in the store here: {said}")

    def _wait(self, client: SyncPrefectClient, errand: _Errand, run: FlowRun, pool: Pool) -> EngineOutcome | None:
        if pool.online:
            errand.alone = None
            before = self.around.runs_before(client, errand.pool, run)
            if before:
                self._show(errand, f"waiting for pool {errand.pool}: {before} before it")
            return None
        if errand.alone is None:
            errand.alone = (self.around.now_s(), pool.last_seen or datetime.now(timezone.utc))
        since, clock = errand.alone
        reason = f"no worker on pool {errand.pool} since {_clock(clock)}"
        if self.around.now_s() - since < self.session.settings.runner_wait_s:
            self._show(errand, f"waiting: {reason}")
            return None
        client.set_flow_run_state(errand.run, Cancelled(message=reason), force=True)
        return _ended(errand, reason, Outcome.INCONCLUSIVE)

    def _watch(self, client: SyncPrefectClient, errand: _Errand) -> EngineOutcome | None:
        """See whether a run that a worker took is still alive. Clocks of two hosts are not compared."""
        now, sign = self.around.now_s(), last_heartbeat(self.session.store, str(errand.run))
        self._show(errand, f"taken by a worker of pool {errand.pool}" if sign is None else f"running on {errand.pool}")
        if errand.sign_seen is None or sign != errand.sign:
            errand.sign, errand.sign_seen = sign, now
        silence_s = self.session.settings.runner_silence_s
        limit = silence_s if sign is not None else max(silence_s, START_LIMIT_S)
        if now - errand.sign_seen < limit:
            return None
        dead = f"no heartbeat from its runner for {limit:g} s"
        client.set_flow_run_state(errand.run, Crashed(message=dead), force=True)
        return self._again(errand, dead)

    def _again(self, errand: _Errand, reason: str) -> EngineOutcome | None:
        if self.stop.is_set():
            return None
        if errand.sent == MOST_RUNS:
            return _ended(errand, f"{reason}, and that {MOST_RUNS} times; see the logs of the workers of {errand.pool}")
        errand.run = self.around.send(errand.pool, errand.job.cell.engine_id, errand.key)
        errand.sent += 1
        errand.sign = errand.sign_seen = errand.alone = None
        self._show(errand, f"{reason}: sent to pool {errand.pool} again, {errand.sent} of {MOST_RUNS}")
        return None

    def _show(self, errand: _Errand, text: str) -> None:
        if text != errand.shown:
            errand.shown = text
            self.session.reporter.elsewhere(errand.job.cell, text)


def _ended(errand: _Errand, reason: str, outcome: Outcome = Outcome.FAIL) -> EngineOutcome:
    job = errand.job
    return EngineOutcome(cell=job.cell, outcome=outcome, typed=job.typed, policy=job.policy, reason=reason)


def _clock(moment: datetime) -> str:
    """Local time; with the date where that is not today's."""
    local, today = moment.astimezone(), datetime.now(timezone.utc).astimezone().date()
    return f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


@contextmanager
def dispatched(
    session: Session, jobs: Sequence[EngineJob], around: Surroundings = REAL
) -> Iterator[Callable[[], list[EngineOutcome]]]:
    """Send every job to its target's pool; yield what waits for their outcomes and tells meanwhile how they are.

    If the work inside ends by an error, what is still under way is cancelled.
    """
    if not jobs:
        yield list
        return
    dispatch = _Dispatch(session, around)
    with ExitStack() as ending:
        ending.callback(dispatch.cancel)  # last: until the pool's thread has ended, it may send a run again
        pool = ending.enter_context(ThreadPoolExecutor(1))
        ending.callback(dispatch.stop.set)
        for job in jobs:
            dispatch.send(job)
        # Prefect finds the flow that runs, whose sub-flows these are, in the context.
        collecting = pool.submit(copy_context().run, dispatch.collect)
        yield collecting.result
