from __future__ import annotations

import threading
from queue import Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.serving.python_models.limited_calls import Asked, LimitedCalls, Outcome
from tasks.serving.python_models.routing import Route
from tests.real_triton import route_of, write_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON_S = 30  # what comes, comes long before
SHORT_S = 0.05


@pytest.fixture
def route(tmp_path: Path) -> Route:
    write_route(tmp_path, route_of(1, {"one": (1, 8)}))
    return Route.read(tmp_path / "route.json")


class Engine:
    """Answers with sums; while `hangs` its calls do not return."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.hangs, self.released = False, threading.Event()
        self.problem: str | None = None
        self.mute = False

    def __call__(self, _: str, names: Any, feeds: Any) -> tuple[dict[str, Any], str | None]:
        self.calls.append(len(feeds["tokens"]))
        if self.hangs:
            self.released.wait()
        if self.mute:
            return {}, None
        return ({}, self.problem) if self.problem else ({name: feeds["tokens"].sum(axis=1) for name in names}, None)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.released.set()


@pytest.fixture
def make(engine: Engine) -> Iterator[Callable[..., LimitedCalls]]:
    made: list[LimitedCalls] = []

    def start(**changes: Any) -> LimitedCalls:
        options = {"most_hanging": 2, "most_waiting": 100, "together": True, **changes}
        made.append(LimitedCalls(engine, told.append, **options))
        return made[-1]

    told: list[str] = []
    yield start
    engine.released.set()
    for one in made:
        one.close()
    assert told == []


def asked(ends: Queue[Outcome], width: int = 3, limit_s: float = SOON_S) -> Asked:
    return Asked({"tokens": np.ones((1, width), np.int64)}, limit_s, ends.put)


def test_a_call_is_answered(make: Callable[..., LimitedCalls], route: Route) -> None:
    ends: Queue[Outcome] = Queue()
    assert make().put(route, [asked(ends)])
    outcome = ends.get(timeout=SOON_S)
    assert outcome.outputs is not None
    assert outcome.outputs["score"].tolist() == [3]
    assert outcome.failed == ""


def test_a_call_that_does_not_come_back_is_given_up_once_and_the_next_is_made_by_another_thread(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    ends: Queue[Outcome] = Queue()
    calls = make()
    engine.hangs = True
    calls.put(route, [asked(ends, limit_s=SHORT_S)])
    assert ends.get(timeout=SOON_S).failed == "timeout"
    engine.hangs = False
    assert calls.put(route, [asked(ends)])
    assert ends.get(timeout=SOON_S).failed == ""
    engine.released.set()
    calls.close()
    assert ends.empty()  # what came too late is told nobody


def test_nothing_more_is_called_where_so_many_hang_and_again_when_they_return(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    ends: Queue[Outcome] = Queue()
    calls = make(most_hanging=2)
    engine.hangs = True
    for _ in range(2):
        calls.put(route, [asked(ends, limit_s=SHORT_S)])
        assert ends.get(timeout=SOON_S).failed == "timeout"
    until(lambda: calls.hangs)
    assert calls.hangs_by(route)
    assert not calls.put(route, [asked(ends)])
    assert len(engine.calls) == 2
    engine.hangs = False
    engine.released.set()
    until(lambda: not calls.hangs)
    assert calls.put(route, [asked(ends)])
    assert ends.get(timeout=SOON_S).failed == ""


def test_a_call_whose_askers_gave_up_before_it_began_is_given_up_too(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    """Two shapes are two calls: while the first hangs, those of the second stop waiting."""
    ends: Queue[Outcome] = Queue()
    calls = make(most_hanging=3)
    engine.hangs = True
    calls.put(route, [asked(ends, width, SHORT_S) for width in (3, 4)])
    assert sorted(ends.get(timeout=SOON_S).failed for _ in range(2)) == ["timeout", "waited"]
    engine.hangs = False
    assert calls.put(route, [asked(ends)])
    assert ends.get(timeout=SOON_S).failed == ""


def test_what_waits_longer_than_its_limit_is_not_called_any_more(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    ends: Queue[Outcome] = Queue()
    other: Queue[Outcome] = Queue()
    calls = make()
    engine.hangs = True
    calls.put(route, [asked(other)])
    until(lambda: bool(engine.calls))
    calls.put(route, [asked(ends, limit_s=SHORT_S)])
    assert ends.get(timeout=SOON_S).failed == "waited"
    assert len(engine.calls) == 1


def test_those_that_wait_together_share_a_call_and_others_do_not(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    for together, sizes in ((True, [1, 3]), (False, [1, 1, 1, 1])):
        ends: Queue[Outcome] = Queue()
        calls = make(together=together)
        engine.calls, engine.hangs, engine.released = [], True, threading.Event()
        calls.put(route, [asked(ends)])
        until(lambda: bool(engine.calls))
        for _ in range(3):
            calls.put(route, [asked(ends)])
        engine.hangs = False
        engine.released.set()
        assert [ends.get(timeout=SOON_S).failed for _ in range(4)] == [""] * 4
        assert engine.calls == sizes


def test_more_than_may_wait_is_refused(make: Callable[..., LimitedCalls], route: Route, engine: Engine) -> None:
    ends: Queue[Outcome] = Queue()
    calls = make(most_waiting=1)
    engine.hangs = True
    calls.put(route, [asked(ends)])
    until(lambda: bool(engine.calls))
    assert calls.put(route, [asked(ends)])
    assert not calls.put(route, [asked(ends)])
    assert not calls.hangs_by(route)


@pytest.mark.parametrize(
    ("problem", "failed"),
    [("no kernel", "error"), ("Model one is not ready.", "absent"), ("Stub process is not healthy.", "error")],
)
def test_a_model_that_is_not_loaded_has_not_failed(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine, problem: str, failed: str
) -> None:
    ends: Queue[Outcome] = Queue()
    engine.problem = problem
    make().put(route, [asked(ends)])
    assert ends.get(timeout=SOON_S).failed == failed


def test_answers_that_cannot_be_cut_and_requests_that_do_not_fit_are_errors(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    ends: Queue[Outcome] = Queue()
    calls = make()
    calls.put(route, [asked(ends, width=9)])
    assert "sequence is 9" in ends.get(timeout=SOON_S).text
    engine.mute = True
    calls.put(route, [asked(ends)])
    assert ends.get(timeout=SOON_S).failed == "error"


def test_the_end_tells_those_that_wait_and_does_not_wait_for_a_call_that_hangs(
    make: Callable[..., LimitedCalls], route: Route, engine: Engine
) -> None:
    ends: Queue[Outcome] = Queue()
    calls = make(most_hanging=1)
    engine.hangs = True
    calls.put(route, [asked(ends, limit_s=SHORT_S)])
    assert ends.get(timeout=SOON_S).failed == "timeout"
    calls.close()
    assert not calls.put(route, [asked(ends)])


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(SOON_S / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("did not come")
