from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled, State

from flows.console import Reporter
from flows.runners import dispatch
from flows.runners.dispatch import Surroundings, dispatched, targets_elsewhere
from flows.runners.handover import SIGN, _key, leave_outcome
from flows.runners.pools import Pool
from flows.session import Session
from flows.settings import Settings
from tasks.backends.gpu import Gpu
from tasks.errors import EnginegateError, InputError, StageError
from tests.tasks.tiny import cell, job, make_outcome, tiny_policy
from validation.policy import PerformanceRule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self

    from tasks.records import EngineJob, EngineOutcome
    from validation.policy import Policy

T4 = cell(target="t4")
THEN = datetime(2024, 11, 20, 14, 2, tzinfo=timezone.utc)


@dataclass
class Prefect:
    """Stands in for Prefect's server: what the test says of the last run that was sent; with a clock of its own."""

    session: Session
    states: list[State | Exception]
    pools: Callable[[int], Pool] = lambda _look: Pool(online=1, last_seen=None)
    step_s: float = 10.0
    before: int = 0
    sent: list[UUID] = field(default_factory=list)
    ended: list[tuple[UUID, str]] = field(default_factory=list)
    looks: int = 0
    on_look: Callable[[Prefect], None] = lambda _prefect: None

    def send(self, _pool: str, _engine_id: str, _job: str) -> UUID:
        self.sent.append(uuid4())
        return self.sent[-1]

    def read_runs(self, _client: object, _ids: list[UUID]) -> dict[UUID, Any]:
        self.looks += 1
        self.on_look(self)
        state = self.states[min(self.looks, len(self.states)) - 1]
        if isinstance(state, Exception):
            raise state
        return {self.sent[-1]: SimpleNamespace(state=state)}

    def set_flow_run_state(self, run: UUID, state: State, *, force: bool = False) -> None:
        del force
        self.ended.append((run, state.type.value))

    def around(self, **changes: Any) -> Surroundings:
        """The world as this server tells it; each look takes `step_s`."""
        told: dict[str, Any] = {
            "connect": lambda: self,
            "send": self.send,
            "read_runs": self.read_runs,
            "read_pool": lambda _client, _pool: self.pools(self.looks),
            "runs_before": lambda _client, _pool, _run: self.before,
            "now_s": lambda: self.looks * self.step_s,
            "poll_s": 0.0,
        }
        return Surroundings(**(told | changes))

    def sign(self) -> None:
        self.session.store.write_record(SIGN, _key(str(self.sent[-1])), {"number": self.looks})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


@pytest.fixture
def told() -> list[str]:
    """What people were told about runners."""
    return []


@pytest.fixture
def session(tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(Reporter, "elsewhere", lambda _self, _cell, text: told.append(text))
    return Session(Settings(home=tmp_path, runner_wait_s=60, runner_silence_s=60), Reporter())


@pytest.fixture
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture
def outcome(session: Session, policy: Policy) -> EngineOutcome:
    return make_outcome(session.store, policy=policy, engine=T4)


@pytest.fixture
def asked(session: Session, outcome: EngineOutcome, policy: Policy) -> EngineJob:
    assert outcome.typed
    return job(session.store, outcome.typed, target="t4", policy=policy)


@pytest.fixture
def run(session: Session, asked: EngineJob) -> Callable[..., tuple[EngineOutcome, Prefect]]:
    """Dispatch the job to a server that behaves as told, and collect its outcome."""

    def collect(*states: State | Exception, **behaviour: Any) -> tuple[EngineOutcome, Prefect]:
        prefect = Prefect(session, list(states), **behaviour)
        with dispatched(session, [asked], prefect.around()) as wait:
            (made,) = wait()
        return made, prefect

    return collect


EARNED = replace(tiny_policy(), performance=(PerformanceRule(metric="speedup_vs_fp16", min=1.0),))


@pytest.mark.parametrize("policy", [tiny_policy(), EARNED], ids=["settled", "provisional"])
def test_a_verdict_that_takes_the_other_engines_is_not_told_yet(
    run: Callable[..., Any],
    session: Session,
    outcome: EngineOutcome,
    policy: Policy,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reporter, "verdict", lambda _self, outcome: told.append(f"verdict {outcome.outcome.value}"))

    def leave(prefect: Prefect) -> None:
        leave_outcome(session.store, str(prefect.sent[0]), outcome)

    made, _ = run(Completed(), on_look=leave)
    assert made == outcome
    assert told[-1] == ("measured, to be judged with the other engines" if policy is EARNED else "verdict pass")


def test_the_outcome_is_what_the_run_left_in_the_store(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome
) -> None:
    def leave(prefect: Prefect) -> None:
        leave_outcome(session.store, str(prefect.sent[0]), outcome)

    made, prefect = run(Scheduled(), Pending(), Running(), Completed(), on_look=leave)
    assert made == outcome
    assert (len(prefect.sent), prefect.ended) == (1, [])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Completed(), "is ENGINEGATE_STORE there the same?"),
        (Failed(message="ImportError: no such module"), "ImportError: no such module"),
        (Cancelled(), "Cancelled"),
    ],
)
def test_a_run_that_ends_without_an_outcome_fails_with_the_reason(
    run: Callable[..., Any], asked: EngineJob, state: State, words: str
) -> None:
    made, prefect = run(state)
    assert (made.cell, made.outcome) == (asked.cell, Outcome.FAIL)
    assert words in made.reason
    assert len(prefect.sent) == 1


def test_a_pool_without_a_worker_is_named_at_once_and_given_up_after_the_limit(
    run: Callable[..., Any], told: list[str]
) -> None:
    made, prefect = run(Scheduled(), pools=lambda _look: Pool(online=0, last_seen=THEN))
    since = f"no worker on pool gpu-t4 since {THEN.astimezone():%Y-%m-%d %H:%M}"
    assert (made.outcome, made.reason) == (Outcome.INCONCLUSIVE, since)
    assert prefect.ended == [(prefect.sent[0], "CANCELLED")]
    assert prefect.looks == 7
    assert told.count(f"waiting: {since}") == 1


def test_a_worker_that_comes_in_time_ends_the_wait_and_a_busy_one_is_waited_for(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome, told: list[str]
) -> None:
    def leave(prefect: Prefect) -> None:
        if prefect.looks == 30:
            leave_outcome(session.store, str(prefect.sent[0]), outcome)

    states = [Scheduled()] * 29 + [Completed()]
    made, prefect = run(*states, before=1, on_look=leave, pools=lambda look: Pool(int(look > 5), None))
    assert made == outcome
    assert prefect.ended == []
    assert told.count("waiting for pool gpu-t4: 1 before it") == 1


def test_a_run_without_a_heartbeat_is_ended_and_sent_again_at_most_twice(
    run: Callable[..., Any], told: list[str]
) -> None:
    def sign_once(prefect: Prefect) -> None:
        if len(signed) < len(prefect.sent):
            signed.append(prefect.sent[-1])
            prefect.sign()

    signed: list[UUID] = []
    made, prefect = run(Running(), on_look=sign_once)
    assert made.outcome is Outcome.FAIL
    assert "no heartbeat from its runner for 60 s, and that 3 times" in made.reason
    assert len(set(prefect.sent)) == 3
    assert prefect.ended == [(run_id, "CRASHED") for run_id in prefect.sent]
    assert told[-2].endswith("sent to pool gpu-t4 again, 3 of 3")


def test_a_run_with_a_heartbeat_may_take_as_long_as_it_needs(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome
) -> None:
    def live(prefect: Prefect) -> None:
        prefect.sign()
        if prefect.looks == 100:
            leave_outcome(session.store, str(prefect.sent[0]), outcome)

    made, prefect = run(*[Running()] * 99, Completed(), on_look=live)
    assert made == outcome
    assert len(prefect.sent) == 1


def test_a_crashed_run_is_sent_again_unless_its_outcome_is_there(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome
) -> None:
    def leave(prefect: Prefect) -> None:
        if len(prefect.sent) == 2:
            leave_outcome(session.store, str(prefect.sent[1]), outcome)

    made, prefect = run(Crashed(message="exit code -9"), on_look=leave)
    assert made == outcome
    assert len(prefect.sent) == 2


def test_the_outcome_of_a_run_that_was_given_up_is_never_taken(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome
) -> None:
    late = outcome.model_copy(update={"reason": "late"})

    def leave(prefect: Prefect) -> None:
        leave_outcome(session.store, str(prefect.sent[0]), late)
        if len(prefect.sent) == 2:
            leave_outcome(session.store, str(prefect.sent[1]), outcome)

    states = [Running()] * 40 + [Completed()]
    made, prefect = run(*states, on_look=leave)
    assert made == outcome
    assert len(prefect.sent) == 2


def test_a_server_that_is_away_for_a_while_is_waited_for_and_one_that_stays_away_ends_the_conversion(
    run: Callable[..., Any], session: Session, outcome: EngineOutcome
) -> None:
    def leave(prefect: Prefect) -> None:
        leave_outcome(session.store, str(prefect.sent[0]), outcome)

    away = httpx.ConnectError("connection refused")
    assert run(*[away] * 20, Completed(), on_look=leave)[0] == outcome
    with pytest.raises(EnginegateError, match="no longer answers: connection refused"):
        run(away)


@pytest.fixture
def prefect(session: Session) -> Prefect:
    """A server on which a run crashes, and every later one runs."""
    return Prefect(session, [Crashed(), Running()], step_s=0.0)


def test_what_is_under_way_is_cancelled_when_the_conversion_ends_by_an_error(
    session: Session, asked: EngineJob, prefect: Prefect
) -> None:
    around = prefect.around(poll_s=1.0)
    with pytest.raises(StageError, match="the CPU's turn failed"), dispatched(session, [asked], around):
        raise StageError("the CPU's turn failed")
    assert prefect.ended == [(prefect.sent[0], "CANCELLING")]


def test_a_run_that_cannot_be_cancelled_keeps_no_other_from_it(
    session: Session, asked: EngineJob, prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(run: UUID, state: State) -> None:
        if run == prefect.sent[0]:
            raise httpx.ReadTimeout("timed out")
        if run == prefect.sent[1]:
            raise ObjectNotFound(http_exc=RuntimeError("404"))
        prefect.ended.append((run, state.type.value))

    monkeypatch.setattr(prefect, "set_flow_run_state", cancel)
    around = prefect.around(poll_s=1.0)
    with pytest.raises(StageError, match="the CPU's turn failed"), dispatched(session, [asked] * 3, around):
        raise StageError("the CPU's turn failed")
    assert prefect.ended == [(prefect.sent[2], "CANCELLING")]


def test_a_dispatch_that_was_stopped_sends_no_run_again(session: Session, asked: EngineJob, prefect: Prefect) -> None:
    stopped = dispatch._Dispatch(session, prefect.around())  # noqa: SLF001 - whether `stop` comes before a look is a matter of moments
    stopped.send(asked)
    stopped.stop.set()
    stopped._look(prefect)  # noqa: SLF001 - as above
    assert (len(prefect.sent), len(stopped.errands), stopped.outcomes) == (1, 1, [])


def test_a_run_that_was_being_sent_again_when_the_conversion_ended_is_cancelled(
    session: Session, asked: EngineJob, prefect: Prefect
) -> None:
    def send(*arguments: str) -> UUID:
        if prefect.looks:
            sending.set()
            time.sleep(0.2)
        return prefect.send(*arguments)

    sending = Event()
    with dispatched(session, [asked], prefect.around(send=send)):
        assert sending.wait(10)
    assert len(prefect.sent) == 2
    assert prefect.ended == [(prefect.sent[1], "CANCELLING")]


def test_the_date_is_shown_where_it_is_not_today_s() -> None:
    now = datetime.now(timezone.utc)
    assert len(dispatch._clock(now)) == len("14:02")  # noqa: SLF001 - what people read
    assert len(dispatch._clock(now - timedelta(days=2))) == len("2026-11-20 14:02")  # noqa: SLF001 - as above


def test_only_targets_of_this_host_are_made_here_without_a_prefect_api() -> None:
    here: dict[str, Any] = {
        "is_configured": lambda: False,
        "find": lambda: Gpu("NVIDIA T4", "7.5", "1", "13.0", None, "GPU-1"),
    }
    assert targets_elsewhere([cell(), T4], **here) == set()
    with pytest.raises(InputError, match=r"^no runner for a10g: this host has target t4; .*gpu-a10g .*--target t4$"):
        targets_elsewhere([cell(), T4, cell(target="a10g")], **here)


def test_the_cpu_asks_nobody() -> None:
    asked: list[object] = []
    assert targets_elsewhere([cell(), cell("int8")], is_configured=lambda: bool(asked.append(1))) == set()
    assert asked == []
