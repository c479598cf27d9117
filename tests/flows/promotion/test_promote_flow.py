"""The promote flow against a Prefect server on loopback, with an answer given as Prefect's page gives it."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prefect import tags
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import CancelledRun
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.console import Reporter
from flows.promotion import promote_flow as promote
from flows.promotion.promote_flow import describe_proposal, promote_engine
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.errors import InputError, RefusedError
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.promote import carry_out, propose_promotion
from tasks.release.publish import publish_engine
from tests.tasks.tiny import cell, make_outcome, manifest_of
from validation.policy import Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.registry.moves import Move

FIRST, SECOND, FAILING = "0" * 12, "1" * 12, "2" * 12
ANSWER_LIMIT_S = 20
TAG = f"asked by {os.getpid()}"  # several workers may run this module, against one server
YES = {"approve": True, "approver": "ann"}


@pytest.fixture
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        SyncPrefectClient(prefect_url) as client,
    ):
        yield client


def register(session: Session, version: str) -> None:
    outcome = make_outcome(session.store, plan=version.encode(), engine=cell(version=version))
    assert publish_engine(session.stage_context(), session.registry, manifest_of(session.store, outcome))


def ask(to: ChannelName = ChannelName.CANARY, **parameters: Any) -> Any:
    """Run the flow, which gives up soon where the test does not answer."""
    with tags(TAG):
        return promote_engine("tiny", "cpu", to.value, **{"wait_s": 10, **parameters})


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A registry with two engines that passed, the first in staging; a store with one that failed."""
    monkeypatch.setattr(promote, "POLL_S", 0.05)
    told: list[Move] = []
    listener = SimpleNamespace(name="a listener", hear=told.append)
    monkeypatch.setattr("flows.session.LISTENERS", (lambda _settings, _registry: listener,))
    session = Session(Settings(home=tmp_path), Reporter())
    register(session, FIRST)
    register(session, SECOND)
    failed = make_outcome(session.store, noise=0.3, plan=b"bad", engine=cell(version=FAILING))
    session.rejected.keep(manifest_of(session.store, failed))
    move(session, ChannelName.STAGING, FIRST)
    with use_session(session):
        yield session
    moves = [session.registry.channels.read(ChannelAddress("tiny", "cpu", name)).moves for name in ChannelName]
    made = [one.move for channel in moves for one in channel]
    assert sorted(told, key=str) == sorted(made, key=str), "listeners are told of each move"


def move(session: Session, name: ChannelName, version: str, who: str = "bob") -> Move:
    """Somebody else's move."""
    engine = cell(version=version).engine_id
    proposal = propose_promotion(session.registry, session.rejected, ChannelAddress("tiny", "cpu", name), engine)
    return carry_out(session.registry, session.stage_context(), proposal, reason="a try", override=None, who=who)


def current(session: Session, name: ChannelName) -> Move | None:
    return session.registry.channels.read(ChannelAddress("tiny", "cpu", name)).current


@dataclass
class Person:
    """Who answers in Prefect's page, once the run waits there."""

    client: SyncPrefectClient
    run: FlowRun | None = None

    def wait(self) -> FlowRun:
        paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < deadline:
            for run in self._read(FlowRunFilter(state=paused, tags=FlowRunFilterTags(all_=[TAG]))):
                if self.inputs(run):
                    self.run = run
                    return run
            time.sleep(0.05)
        pytest.fail("no run asked")

    def inputs(self, run: FlowRun) -> list[dict[str, Any]]:
        """What the run asks for: the form's schema and what stands above it."""
        found = self.client.request(
            "POST", "/flow_runs/{id}/input/filter", path_params={"id": run.id}, json={"prefix": "", "limit": 9}
        )
        inputs: list[dict[str, Any]] = found.json()
        return inputs if {"paused-1-schema", "paused-1-description"} <= {one["key"] for one in inputs} else []

    def answer(self, answer: dict[str, Any]) -> Any:
        assert self.run
        return self.client.resume_flow_run(self.run.id, answer)

    def state(self) -> Any:
        """The last state of the run that asked, as Prefect's page shows it."""
        assert self.run
        return self._read(FlowRunFilter(id=FlowRunFilterId(any_=[self.run.id])))[0].state

    def _read(self, wanted: FlowRunFilter) -> list[FlowRun]:
        return self.client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=9, offset=0
        )


@pytest.fixture
def person(client: SyncPrefectClient) -> Person:
    return Person(client)


@contextmanager
def answering(person: Person, *acts: Callable[[], object]) -> Iterator[None]:
    """Do these once the run waits, one after the other."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(lambda: (person.wait(), [act() for act in acts]))
        try:
            yield
        finally:
            doing.result(ANSWER_LIMIT_S)


def test_an_approved_engine_is_moved_in_the_approver_s_name(session: Session, person: Person) -> None:
    answer = {**YES, "approver": " ann ", "reason": "looks good"}
    with answering(person, lambda: person.answer(answer)):
        made = ask(reason="release 7")
    assert current(session, ChannelName.CANARY) == made
    assert (made.engine_id, made.kind, made.override) == (f"tiny-cpu-fp32@{FIRST}", "promote", None)
    assert (made.who, made.reason) == ("ann through Prefect", "release 7; looks good")
    assert person.state().is_completed()


@pytest.mark.usefixtures("session")
def test_the_comparison_is_an_artifact_and_stands_above_the_form(person: Person) -> None:
    shown: list[Any] = []

    def look() -> None:
        assert person.run
        shown.extend(person.inputs(person.run))
        wanted = {"artifacts": {"flow_run_id": {"any_": [str(person.run.id)]}}}
        shown.extend(person.client.request("POST", "/artifacts/filter", json=wanted).json())

    with answering(person, look, lambda: person.answer({**YES, "approve": False})), pytest.raises(CancelledRun):
        ask(ChannelName.STAGING, engine=f"tiny-cpu-fp32@{SECOND}")
    (artifact,) = [one["data"] for one in shown if one.get("type") == "markdown"]
    (description,) = [one["value"] for one in shown if one.get("key") == "paused-1-description"]
    assert json.loads(description) == artifact
    assert f"| engine | tiny-cpu-fp32\\@{FIRST} | tiny-cpu-fp32\\@{SECOND} |" in artifact
    assert "by bob (a try)" in artifact


@pytest.mark.parametrize(
    ("reason", "said"), [("", "ann did not approve"), ("too late", "ann did not approve (too late)")]
)
def test_a_no_ends_the_run_as_cancelled_and_moves_nothing(
    session: Session, person: Person, reason: str, said: str
) -> None:
    answer = {"approve": False, "approver": "ann", "reason": reason}
    with answering(person, lambda: person.answer(answer)), pytest.raises(CancelledRun):
        ask()
    assert current(session, ChannelName.CANARY) is None
    assert person.state().is_cancelled()
    assert person.state().message == f"{said}; nothing was moved"


def test_no_answer_in_time_fails_the_run_and_moves_nothing(session: Session, person: Person) -> None:
    with answering(person), pytest.raises(RefusedError, match="nobody answered within 1 s; canary of tiny for cpu was"):
        ask(wait_s=1)
    assert current(session, ChannelName.CANARY) is None
    assert person.state().is_failed()
    late = person.answer(YES)
    assert late.status is SetStateStatus.ABORT
    assert current(session, ChannelName.CANARY) is None


def test_what_somebody_else_moved_meanwhile_is_refused_with_who_it_was(session: Session, person: Person) -> None:
    def overtake() -> None:
        move(session, ChannelName.CANARY, FIRST, who="eve")

    said = rf"canary of tiny for cpu: eve moved it to tiny-cpu-fp32@{FIRST} at .* \(a try\) meanwhile"
    with answering(person, overtake, lambda: person.answer(YES)), pytest.raises(RefusedError, match=said):
        ask()
    assert [
        one.move.who for one in session.registry.channels.read(ChannelAddress("tiny", "cpu", ChannelName.CANARY)).moves
    ] == ["eve"]
    assert person.state().is_failed()
    assert "eve moved it" in person.state().message


def test_a_step_before_that_moved_on_meanwhile_is_refused(session: Session, person: Person) -> None:
    def overtake() -> None:
        move(session, ChannelName.STAGING, SECOND, who="eve")

    with (
        answering(person, overtake, lambda: person.answer(YES)),
        pytest.raises(RefusedError, match=f"staging of tiny for cpu: eve moved it to tiny-cpu-fp32@{SECOND}"),
    ):
        ask()
    assert current(session, ChannelName.CANARY) is None


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"approve": True},
        {"approver": "ann"},
        {**YES, "approver": ""},
        {**YES, "approver": " \t"},
        {**YES, "approver": "ann\nbob"},
        {**YES, "reason": "r" * 901},
        {**YES, "sudo": True},
    ],
    ids=["empty", "no name", "no answer", "blank name", "only spaces", "two lines", "long reason", "more"],
)
def test_an_answer_that_is_none_is_sent_back_and_the_run_waits_on(
    session: Session, person: Person, answer: dict[str, Any]
) -> None:
    replies: list[Any] = []
    no = {"approve": False, "approver": "ann"}
    with (
        answering(person, lambda: replies.append(person.answer(answer)), lambda: replies.append(person.answer(no))),
        pytest.raises(CancelledRun),
    ):
        ask()
    assert [reply.status for reply in replies] == [SetStateStatus.REJECT, SetStateStatus.ACCEPT]
    assert current(session, ChannelName.CANARY) is None


def test_a_run_that_is_set_going_without_an_answer_moves_nothing(session: Session, person: Person) -> None:
    def force() -> None:
        assert person.run
        running = {"state": {"type": "RUNNING"}, "force": True}
        person.client.request("POST", "/flow_runs/{id}/set_state", path_params={"id": person.run.id}, json=running)

    with answering(person, force), pytest.raises(Exception, match=r"(?i)approve|not found"):
        ask()
    assert current(session, ChannelName.CANARY) is None


@pytest.mark.usefixtures("client")
def test_a_broken_rule_is_refused_before_anybody_is_asked(session: Session) -> None:
    with pytest.raises(RefusedError, match=r"skips staging, .*--override REASON"):
        ask(engine=f"tiny-cpu-fp32@{SECOND}")
    with pytest.raises(InputError, match="override: this promotion breaks no rule"):
        ask(override="why not")
    assert current(session, ChannelName.CANARY) is None


def test_an_override_is_shown_registers_a_failing_engine_and_stays_in_the_history(
    session: Session, person: Person
) -> None:
    engine = f"tiny-cpu-fp32@{FAILING}"
    with answering(person, lambda: person.answer(YES)):
        made = ask(ChannelName.STAGING, engine=engine, override="the deadline")
    assert (made.engine_id, made.override, made.who) == (engine, "the deadline", "ann through Prefect")
    manifest = session.registry.engines.read_manifest(cell(version=FAILING))
    assert manifest.override
    assert (manifest.override.reason, manifest.override.who) == ("the deadline", "ann through Prefect")


@pytest.mark.usefixtures("client")
def test_a_channel_that_points_there_already_asks_nobody(session: Session) -> None:
    before = current(session, ChannelName.STAGING)
    assert ask(ChannelName.STAGING, engine=f"tiny-cpu-fp32@{FIRST}") == before


def test_texts_of_people_stay_texts_in_the_page(session: Session) -> None:
    hostile = "<script>alert(1)</script> [a](http://evil) **b** | c\n# d"
    proposal = propose_promotion(
        session.registry, session.rejected, ChannelAddress("tiny", "cpu", ChannelName.CANARY), f"tiny-cpu-fp32@{SECOND}"
    )
    shown = describe_proposal(proposal, hostile, hostile)
    assert "<script>" not in shown
    assert "[a](" not in shown
    assert "**b**" not in shown
    assert r"\*\*b\*\* \| c\\n\# d" in shown
    assert "**✕ skips staging, which points at " in shown
    assert "**✕ OVERRIDE, kept in the history for ever: " in shown
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1


def test_what_the_proposed_engine_was_asked_less_for_stands_above_the_form(session: Session) -> None:
    address = ChannelAddress("tiny", "cpu", ChannelName.STAGING)
    policy = Policy(rules=(Rule(output="score", metric="mae", max=1e9),), min_samples=1)
    outcome = make_outcome(session.store, plan=b"loose", engine=cell(version="3" * 12), policy=policy)
    publish_engine(session.stage_context(), session.registry, manifest_of(session.store, outcome))
    proposal = propose_promotion(session.registry, session.rejected, address, outcome.cell.engine_id)
    shown = describe_proposal(proposal, "", None)
    assert r"**? looser than in staging now\: score mae max 1e+09, 0\.0125 there**" in shown
    assert "| confidence | " in shown


def test_a_worker_without_a_lasting_registry_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class ByWorker:
        class flow_run:  # noqa: N801 - an attribute of Prefect's
            deployment_id = "by a worker"

    monkeypatch.setattr(promote.FlowRunContext, "get", lambda: ByWorker)
    relative = Session(Settings(), Reporter())
    with pytest.raises(InputError, match="ENGINEGATE_REGISTRY: a worker needs it"):
        promote.require_lasting_registry(relative)  # a worker takes too long to start
    for lasting in (Settings(registry="s3://bucket/prefix"), Settings(registry="/srv/registry"), session.settings):
        promote.require_lasting_registry(Session(lasting, Reporter()))
