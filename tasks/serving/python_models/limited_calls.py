"""Calls of an engine that may never come back: a thread makes them, and another takes its place where one is late.

The Python backend lets a thread of its own call other models, and gives such calls of a router 32 threads: where all
of them hang, production's calls wait too (tried with Triton 2.51). So few may hang, and then nothing more is called.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.serving.python_models import routing

    Call = Callable[[str, Sequence[str], routing.Arrays], tuple[routing.Arrays, str | None]]

LOOK_EVERY_S = 0.02
LONGEST_END_S = 2.0
# What Triton says of a model that is unloaded or was never loaded: the host's doing, and not the engine's.
_ABSENT = re.compile(r"Model \S+ is not ready|unknown model", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """How a call went: its outputs, or `failed` and why; `ms` is how long it took.

    `failed` is `error` or `timeout`; `waited` where the call never began, since others were before it; `absent` where
    there is no such model.
    """

    outputs: routing.Arrays | None
    failed: str = ""
    ms: float = 0.0
    text: str = ""


@dataclass(eq=False)
class Asked:
    """A request on its way to an engine, by its inputs; `end` is told once how it went, in one of several threads."""

    arrays: routing.Arrays
    limit_s: float
    end: Callable[[Outcome], None]
    since: float = field(default_factory=time.monotonic)
    started: float | None = None

    def is_late(self, now: float) -> bool:
        """Whether nobody waits for it any longer: its call took too long, or never began."""
        return now - (self.since if self.started is None else self.started) > self.limit_s


@dataclass(eq=False)
class _Worker:
    """A thread, and until when its call has to come back; `given_up` where it did not, and another works instead."""

    plans: tuple[routing.Plan, ...] = ()
    until: float | None = None
    given_up: bool = False


class LimitedCalls:
    """Makes calls one after another; of those that never return, `most_hanging` are borne.

    At most `most_waiting` calls wait; with `together`, those that wait for one engine share a call where they can.
    `tell` is told of an `end` that fails.
    """

    def __init__(
        self, call: Call, tell: Callable[[str], object], *, most_hanging: int, most_waiting: int, together: bool
    ) -> None:
        self._call, self._tell, self._together = call, tell, together
        self._most_hanging, self._most_waiting = most_hanging, most_waiting
        self._lock = threading.Lock()
        self._ready, self._busy = threading.Condition(self._lock), threading.Event()
        self._waiting: deque[tuple[routing.Route, list[Asked]]] = deque()
        self._open: set[Asked] = set()
        self._worker: _Worker | None = None
        self._hanging: set[_Worker] = set()
        self._watched, self._closed = False, False

    @property
    def hangs(self) -> bool:
        """Whether so many calls never came back that nothing is called any more."""
        return len(self._hanging) >= self._most_hanging

    def hangs_by(self, route: routing.Route) -> bool:
        """Whether that is so, and an engine of this route has its part in it."""
        with self._lock:
            return self.hangs and any(worker.plans == route.plans for worker in self._hanging)

    def put(self, route: routing.Route, asked: Sequence[Asked]) -> bool:
        """Have these called; False where that cannot be, and none of them is told anything."""
        with self._lock:
            if self._closed or self.hangs or len(self._waiting) >= self._most_waiting:
                return False
            if not self._watched:
                self._watched = True
                self._start(self._watch)
            if self._worker is None:
                self._replace_worker()
            self._waiting.append((route, list(asked)))
            self._open.update(asked)
            self._ready.notify()
        self._busy.set()
        return True

    def close(self) -> None:
        """Tell those that wait that they were never asked; calls that run are waited for, but not for long."""
        with self._lock:
            self._closed = True
            waiting = [one for _, asked in self._waiting for one in asked]
            self._waiting.clear()
            self._ready.notify_all()
        for one in waiting:
            self._end(one, Outcome(None, "waited", text="the router ends"))
        until = time.monotonic() + LONGEST_END_S
        while self._open and not self.hangs and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        # A daemon: where a call of its never returns, the server must end all the same.
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _replace_worker(self) -> None:
        self._worker = _Worker()
        self._start(self._work, self._worker)

    def _work(self, worker: _Worker) -> None:
        while (taken := self._take(worker)) is not None:
            route, asked = taken
            try:
                self._run(route, asked, worker)
            except Exception as error:  # noqa: BLE001 - whatever an engine's answer does here, somebody waits for one
                for one in asked:
                    self._end(one, Outcome(None, "error", text=f"{type(error).__name__}: {error}"))
        with self._lock:
            self._hanging.discard(worker)

    def _take(self, worker: _Worker) -> tuple[routing.Route, list[Asked]] | None:
        with self._lock:
            while not self._waiting and not self._closed and not worker.given_up:
                self._ready.wait()
            if not self._waiting or worker.given_up:
                return None
            route, asked = self._waiting.popleft()
            while self._together and self._waiting and self._waiting[0][0] is route:
                asked += self._waiting.popleft()[1]
            return route, [one for one in asked if one in self._open]

    def _run(self, route: routing.Route, asked: Sequence[Asked], worker: _Worker) -> None:
        requests = []
        for number, one in enumerate(asked):
            try:
                requests.append(route.request(number, one.arrays))
            except ValueError as error:
                self._end(one, Outcome(None, "error", text=str(error)))
        groups, problems = route.groups(requests)
        for number, text in problems.items():
            self._end(asked[number], Outcome(None, "error", text=text))
        for group in groups:
            if not worker.given_up:
                self._run_group(route, group, [asked[one.number] for one in group.requests], worker)

    def _run_group(self, route: routing.Route, group: routing.Group, asked: Sequence[Asked], worker: _Worker) -> None:
        feeds, began = route.feeds(group), time.monotonic()
        for one in asked:
            one.started = began
        worker.plans, worker.until = route.plans, began + asked[0].limit_s
        outputs, problem = self._call(group.plan.model, list(route.outputs), feeds)
        worker.until = None
        ms = 1000 * (time.monotonic() - began)
        if problem is not None:
            failed = "absent" if _ABSENT.search(problem) else "error"
            for one in asked:
                self._end(one, Outcome(None, failed, ms, f"{group.plan.model}: {problem}"))
            return
        for one, part in zip(asked, route.split(group, outputs), strict=True):
            self._end(one, Outcome(part, ms=ms))

    def _end(self, one: Asked, outcome: Outcome) -> None:
        with self._lock:
            if one not in self._open:
                return
            self._open.remove(one)
        try:
            one.end(outcome)
        except Exception as error:  # noqa: BLE001 - a client that went away must not take this thread with it
            self._tell(f"an answer could not be given: {type(error).__name__}: {error}")

    def _watch(self) -> None:
        while not self._closed or self._open:
            self._busy.wait()
            time.sleep(LOOK_EVERY_S)
            for one in self._find_late():
                began = one.since if one.started is None else one.started
                failed = "waited" if one.started is None else "timeout"
                text = f"took longer than {one.limit_s:g} s"
                self._end(one, Outcome(None, failed, 1000 * (time.monotonic() - began), text))

    def _find_late(self) -> list[Asked]:
        now = time.monotonic()
        with self._lock:
            late = [one for one in self._open if one.is_late(now)]
            if not self._open and not self._closed and (self._worker is None or self._worker.until is None):
                self._busy.clear()
            # By the call itself: those who asked may have stopped waiting before it began.
            if self._worker is not None and (self._worker.until or now) < now:
                self._give_up(self._worker)
            return late

    def _give_up(self, worker: _Worker) -> None:
        worker.given_up = True
        self._hanging.add(worker)
        self._worker = None
        if not self.hangs:
            self._replace_worker()
