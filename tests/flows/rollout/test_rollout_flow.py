"""The rollout flow against a Prefect server on loopback, with answers given as Prefect's page gives them."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from prefect import tags
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.console import Reporter
from flows.rollout import rollout_flow
from flows.rollout.rollout_flow import conduct_rollout, timeline
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.errors import InputError
from tasks.objects.folder import LocalObjects
from tasks.registry.rollouts import StepKind
from tasks.registry.steps import RolloutStatus
from tasks.rollout import transitions
from tasks.rollout.taking_back import abort
from tasks.rollout_spec import RolloutPlan
from tests.tasks import canary
from tests.tasks.canary import ROLLOUT, Canary, by
from tests.tasks.traffic import JudgeStandIn, Traffic
from validation import rollout_judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT_S = 30
TAG = f"rolled out by {os.getpid()}"  # several workers may run this module, against one server
PLAN = RolloutPlan(steps=("shadow", 5.0, 100.0), soak="0s")
ASKING = RolloutPlan(steps=("shadow", 100.0), soak="0s", approve={"100": ("ann",)})


@pytest.fixture
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: prefect_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        SyncPrefectClient(prefect_url) as client,
    ):
        yield client


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    monkeypatch.setattr(rollout_flow, "POLL_S", 0.05)
    monkeypatch.setattr("flows.session.LISTENERS", ())
    monkeypatch.setattr("flows.session.STEP_LISTENERS", ())
    monkeypatch.setattr(rollout_judge, "make_judge", JudgeStandIn)
    monkeypatch.setattr(canary, "BEGAN", datetime.now(timezone.utc))
    session = Session(Settings(home=tmp_path / "home"), Reporter())
    with use_session(session):
        yield Canary(LocalObjects(tmp_path / "home" / "registry"), session.stage_context()).stock()


@pytest.fixture
def hosts(shelf: Canary) -> Traffic:
    return Traffic(shelf)


def conduct(**parameters: Any) -> Any:
    """Run the flow; return its last state."""
    with tags(TAG):
        return conduct_rollout("tiny", "cpu", return_state=True, **{"every_s": 1, **parameters})


def kinds(shelf: Canary) -> list[str]:
    return [one.step.kind.value for one in shelf.reopened_registry().read(ROLLOUT).steps]


def feeding(hosts: Traffic, error: float = 0.001) -> Callable[[float], None]:
    """Sleeps in which hosts go on serving."""

    def sleep(_seconds: float) -> None:
        if hosts.shelf.history.open_rollout is not None:
            hosts.flow(error)

    return sleep


@pytest.mark.usefixtures("client")
def test_a_good_canary_completes_the_run(shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_flow.time, "sleep", feeding(hosts))
    shelf.start(PLAN)
    state = conduct()
    assert state.is_completed(), state
    assert state.message == f"{shelf.canary.manifest.engine_id}: pass, finished at 100"
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]


def test_a_bad_canary_fails_the_run_under_a_name_of_its_own_and_is_an_event(
    shelf: Canary, hosts: Traffic, client: SyncPrefectClient
) -> None:
    shelf.start(PLAN)
    hosts.flow(error=0.3)
    state = conduct()
    assert (state.is_failed(), state.name) == (True, "RolledBack")
    assert "fail, rolled_back at shadow: score mae is 0.3" in state.message
    assert kinds(shelf) == ["start", "rollback"]
    events = [one["event"] for one in _events(client, "enginegate.rollout.rollback")]
    assert events


def _events(client: SyncPrefectClient, name: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + LIMIT_S
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        wanted = {"filter": {"event": {"name": [name]}}, "limit": 9}
        found = client.request("POST", "/events/filter", json=wanted).json()["events"]
        time.sleep(0.1)
    return found


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("end", "name"), [(lambda shelf: abort(shelf.registry, ROLLOUT, by(reason="a call")), "Aborted")]
)
def test_an_early_end_never_completes_the_run(shelf: Canary, end: Any, name: str) -> None:
    shelf.start(PLAN)
    end(shelf)
    state = conduct()
    assert (state.is_failed(), state.name) == (True, name)


@pytest.mark.usefixtures("client", "shelf")
def test_without_a_rollout_the_run_fails_with_the_remedy() -> None:
    with pytest.raises(InputError, match="nothing was ever rolled out; `enginegate rollout start` does"):
        conduct().result()


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.usefixtures("client")
def test_killed_and_started_again_it_goes_on_from_the_registry(
    shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_seconds: float) -> None:
        raise Killed

    shelf.start(PLAN)
    hosts.flow()
    monkeypatch.setattr(rollout_flow.time, "sleep", die)
    with pytest.raises(Killed):
        conduct()
    assert kinds(shelf) == ["start", "advance"]
    monkeypatch.setattr(rollout_flow.time, "sleep", feeding(hosts))
    assert conduct().is_completed()
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]


# --- the approval -----------------------------------------------------------------------------------------------------


def waiting(client: SyncPrefectClient) -> Any:
    """The run that waits in Prefect's page, once it does."""
    paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=paused, tags=FlowRunFilterTags(all_=[TAG])), limit=9, offset=0
        ):
            return run
        time.sleep(0.05)
    pytest.fail("no run asked")


@contextmanager
def answering(*acts: Callable[[], object]) -> Iterator[None]:
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(lambda: [act() for act in acts])
        try:
            yield
        finally:
            doing.result(LIMIT_S)


def answer(client: SyncPrefectClient, **fields: Any) -> Callable[[], object]:
    return lambda: client.resume_flow_run(waiting(client).id, {"approver": "ann", "reason": "", **fields})


def test_an_approved_step_is_entered_in_the_approver_s_name(
    shelf: Canary, hosts: Traffic, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_flow.time, "sleep", feeding(hosts))
    shelf.start(ASKING)
    hosts.flow()
    with answering(answer(client, approve=True, reason="looks good")):
        state = conduct(every_s=30, wait_s=LIMIT_S)
    assert state.is_completed(), state
    assert kinds(shelf) == ["start", "approve", "advance", "finish"]
    approval = shelf.history.steps[1].step
    assert (approval.who, approval.reason) == ("ann", "through Prefect; looks good")


def test_a_no_holds_and_another_name_is_asked_anew(
    shelf: Canary, hosts: Traffic, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.start(ASKING)
    hosts.flow()
    real = time.sleep

    def sleep(seconds: float) -> None:
        if shelf.state.status is RolloutStatus.HELD:
            abort(shelf.registry, ROLLOUT, by("ann", reason="enough"))
        real(min(seconds, 0.1))

    monkeypatch.setattr(rollout_flow.time, "sleep", sleep)

    def no() -> None:
        real(1)
        answer(client, approve=False)()

    with answering(answer(client, approve=True, approver="eve"), no):
        state = conduct(every_s=30, wait_s=LIMIT_S)
    assert state.name == "Aborted"
    assert kinds(shelf) == ["start", "hold", "abort"]


@pytest.mark.usefixtures("client")
def test_while_it_waits_for_an_answer_a_canary_that_fails_is_rolled_back(
    shelf: Canary, hosts: Traffic, client: SyncPrefectClient
) -> None:
    shelf.start(ASKING)
    hosts.flow()

    def worsen() -> None:
        waiting(client)
        hosts.pairs(400, error=0.5)

    with answering(worsen):
        state = conduct(every_s=1, wait_s=LIMIT_S)
    assert state.name == "RolledBack"
    assert kinds(shelf) == ["start", "rollback"]


@pytest.mark.usefixtures("client")
def test_an_approval_by_the_command_ends_the_pause(
    shelf: Canary, hosts: Traffic, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.sleep

    def sleep(seconds: float) -> None:
        real(min(seconds, 0.1))
        feeding(hosts)(0)

    monkeypatch.setattr(rollout_flow.time, "sleep", sleep)
    shelf.start(ASKING)
    hosts.flow()

    def approve() -> None:
        waiting(client)
        shelf.step(transitions.approve, by("ann"))

    with answering(approve):
        state = conduct(every_s=1, wait_s=LIMIT_S)
    assert state.is_completed(), state
    assert kinds(shelf) == ["start", "approve", "advance", "finish"]


def test_texts_of_people_stay_texts_in_the_page(shelf: Canary) -> None:
    shelf.start(PLAN)
    shelf.step(transitions.hold, by(reason="<script>alert(1)</script> [a](http://evil)"))
    shown = timeline(shelf.history)
    assert "<script>" not in shown
    assert "[a](" not in shown
    assert shown.index("hold") < shown.index("start")
    assert shelf.history.steps[-1].step.kind is StepKind.HOLD
