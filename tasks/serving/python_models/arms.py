"""A rollout in the router: which engine answers whom, what the other one is asked too, and what is written of it.

The canary may fail, or never come back. A user whom it owed an answer gets production's, and the failure is counted
as the canary's; what is mirrored is called after the answer, in another thread, and nobody waits for it.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.serving import sampling
    from tasks.serving.python_models import limited_calls, pairs, splitting
else:
    from . import limited_calls, pairs, sampling, splitting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.serving.python_models import routing

    Count = Callable[..., None]

# Of the 32 calls that the Python backend makes at once for a router: the rest is production's, whatever hangs.
MOST_HANGING = 16
MOST_WAITING, MOST_MIRRORED_WAITING = 256, 32
COLD_CALLS = 8
"""The first answers of a canary, on each instance, say how a cold engine does."""
PRODUCTION, CANARY = pairs.ARMS


class Arms:
    """The arms of the rollout that a router follows; `rollout` is None where there is none.

    `call` calls a model, `count` counts a metric, and `tell` is told what goes wrong: in several threads.
    """

    def __init__(
        self, instance: str, instances: int, call: limited_calls.Call, count: Count, tell: Callable[[str], object]
    ) -> None:
        self.rollout: splitting.Rollout | None = None
        self._instance, self._count, self._tell = instance, count, tell
        share = max(2, MOST_HANGING // instances)
        mirrored = max(1, share // 4)
        self._answers = limited_calls.LimitedCalls(
            call, tell, most_hanging=share - mirrored, most_waiting=MOST_WAITING, together=True
        )
        self._mirrored = limited_calls.LimitedCalls(
            call, tell, most_hanging=mirrored, most_waiting=MOST_MIRRORED_WAITING, together=False
        )
        self._random, self._values = random.Random(), sampling.Values()  # noqa: S311 - a draw, and no secret
        self._lock, self._cold = threading.Lock(), 0
        self._told: set[str] = set()
        self._recorder: pairs.Recorder | None = None
        self._ended: list[pairs.Recorder] = []
        self._due: list[Callable[[routing.Route], None]] = []

    def follow(self, route: routing.Route) -> None:
        """Follow the rollout of a route that was read, or none.

        Raises:
            KeyError, ValueError, TypeError: see `Rollout.of_route`; the one before goes on.
        """
        found, before = splitting.Rollout.of_route(route), self.rollout
        if found is None or before is None or (found.id, found.folder) != (before.id, before.folder):
            self._cold = COLD_CALLS
            self._end_recorder()
        if found is not None and self._recorder is None:
            self._recorder = pairs.Recorder(found.folder, self._instance, found.shard_s)
            self._values, self._told = sampling.Values(), set()
        self.rollout = found

    def ask_canary(
        self, asker: splitting.Asker, arrays: routing.Arrays, answer: Callable[[routing.Arrays | None], None]
    ) -> None:
        """Have the canary answer; `answer` is called once, with None where production has to, maybe in another thread.

        `arrays` must stay as they are until then.
        """
        rollout, recorder = self.rollout, self._recorder
        assert rollout is not None and recorder is not None  # noqa: S101, PT018 - it takes the asker

        def end(outcome: limited_calls.Outcome) -> None:
            answer(outcome.outputs)
            late = outcome.failed == "waited"  # whoever asked has waited, whatever for
            self._note_answer(rollout, recorder, asker, replace(outcome, failed="timeout") if late else outcome)

        asked = limited_calls.Asked(arrays, rollout.timeout_s, end)
        if not self._answers.put(rollout.canary, [asked]):
            end(_unasked(self._answers, rollout))

    def _note_answer(
        self,
        rollout: splitting.Rollout,
        recorder: pairs.Recorder,
        asker: splitting.Asker,
        outcome: limited_calls.Outcome,
    ) -> None:
        if outcome.failed and not self._is_current(rollout):
            return  # its engine was taken out, as it had to be
        if outcome.failed == "absent":  # this host's doing: production answered, and no one else was asked
            self._count("rollout_absent")
        elif outcome.failed or not self._is_cold():
            recorder.count(CANARY, rollout.step, asker.key, outcome.ms, outcome.failed)
            self._count("rollout_requests", arm=CANARY)
            if outcome.failed:
                self._count("rollout_errors", arm=CANARY, kind=outcome.failed)
                self._tell_once(rollout, outcome)
        else:
            recorder.count_warm_up(CANARY, rollout.step)

    def note_warm_up(self, requests: int) -> None:
        """Count requests of Triton's own warm-up, which production answers."""
        if self.rollout is not None and self._recorder is not None:
            self._recorder.count_warm_up(PRODUCTION, self.rollout.step, requests)

    def note_call(
        self,
        askers: Mapping[int, splitting.Asker],
        group: routing.Group,
        parts: Sequence[routing.Arrays] | None,
        ms: float,
    ) -> None:
        """Count a call of production, and maybe mirror it: its requests by `askers`, and its answers, if it has some.

        A call is mirrored whole, so that both engines compute the same batch, and their latencies compare.
        """
        rollout, recorder = self.rollout, self._recorder
        if rollout is None or recorder is None:
            return
        failed = "error" if parts is None else ""
        for one in group.requests:
            recorder.count(PRODUCTION, rollout.step, askers[one.number].key, ms, failed)
        self._count("rollout_requests", len(group.requests), arm=PRODUCTION)
        if parts is None:
            self._count("rollout_errors", len(group.requests), arm=PRODUCTION, kind="error")
            return
        for noise, share in ((False, rollout.mirror), (True, rollout.noise)):
            if share and self._random.random() < share:
                arrays = [{name: array.copy() for name, array in one.arrays.items()} for one in group.requests]
                who = [askers[one.number] for one in group.requests]
                self._due.append(self._mirror_of(who, arrays, list(parts), ms, noise=noise))

    def mirror(self, route: routing.Route) -> None:
        """Ask the other engine what is to be mirrored, now that the answers are ready; `route` is production's."""
        due, self._due = self._due, []
        for put in due:
            put(route)

    def _mirror_of(
        self,
        who: list[splitting.Asker],
        arrays: list[routing.Arrays],
        parts: list[routing.Arrays],
        ms: float,
        *,
        noise: bool,
    ) -> Callable[[routing.Route], None]:
        rollout, recorder = self.rollout, self._recorder
        assert rollout is not None and recorder is not None  # noqa: S101, PT018 - see note_call

        def end_of(number: int) -> Callable[[limited_calls.Outcome], None]:
            return lambda outcome: self._note_pair(
                rollout, recorder, who[number], arrays[number], (parts[number], ms), outcome, noise=noise
            )

        def put(production: routing.Route) -> None:
            asked = [limited_calls.Asked(one, rollout.timeout_s, end_of(number)) for number, one in enumerate(arrays)]
            if not self._mirrored.put(production if noise else rollout.canary, asked):
                for one in asked:
                    one.end(_unasked(self._mirrored, rollout))

        return put

    def _note_pair(
        self,
        rollout: splitting.Rollout,
        recorder: pairs.Recorder,
        asker: splitting.Asker,
        arrays: routing.Arrays,
        answered: tuple[routing.Arrays, float],
        outcome: limited_calls.Outcome,
        *,
        noise: bool,
    ) -> None:
        if not self._is_current(rollout):
            return
        if outcome.failed:
            self._tell_once(rollout, outcome)
        production, ms = answered
        outputs, failed = outcome.outputs, outcome.failed
        if outputs is not None and not _are_alike(production, outputs):
            outputs, failed = None, "error"
        if failed in {"absent", "waited"} or (noise and failed):
            recorder.count_lost(rollout.step)
            self._count("rollout_lost_pairs")
            return
        if not failed and not noise and self._is_cold():
            recorder.count_warm_up(CANARY, rollout.step)
            return
        pair = pairs.Pair(
            key=asker.key,
            step=rollout.step,
            noise=noise,
            failed=failed,
            latency_ms=(ms, outcome.ms),
            production=production,
            canary={name: np.zeros_like(array) for name, array in production.items()} if outputs is None else outputs,
            slices={name: self._values.of(name, asker.parameters) for name in rollout.slices},
            inputs={name: array for name, array in arrays.items() if name in rollout.keep_inputs},
        )
        kept = recorder.add(pair)
        self._count("rollout_mirrored" if kept else "rollout_lost_pairs", **({"arm": _arm(noise)} if kept else {}))

    def failures(self) -> int:
        """How many files of evidence could not be written since this was asked."""
        return 0 if self._recorder is None else self._recorder.failures()

    def close(self) -> None:
        """Write what was seen; calls that hang are not waited for."""
        self._answers.close()
        self._mirrored.close()
        self._end_recorder()
        for recorder in self._ended:
            recorder.close()

    def _end_recorder(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(wait=False)  # the request that finds a rollout ended must not wait for a disk
            self._ended = [recorder]

    def _is_current(self, rollout: splitting.Rollout) -> bool:
        return self.rollout is not None and self.rollout.id == rollout.id

    def _tell_once(self, rollout: splitting.Rollout, outcome: limited_calls.Outcome) -> None:
        """One line for each way in which a canary fails: the rest is counted."""
        if outcome.failed not in self._told:
            self._told.add(outcome.failed)
            self._tell(f"rollout {rollout.id}, {outcome.failed}: {outcome.text}; production answers, and it is counted")

    def _is_cold(self) -> bool:
        with self._lock:
            if self._cold:
                self._cold -= 1
                return True
            return False


def _unasked(calls: limited_calls.LimitedCalls, rollout: splitting.Rollout) -> limited_calls.Outcome:
    """Why a call was not even put: a canary whose calls never come back would be late for this one too."""
    if calls.hangs_by(rollout.canary):
        return limited_calls.Outcome(None, "timeout", 1000 * rollout.timeout_s, "its calls do not come back")
    if calls.hangs:
        return limited_calls.Outcome(None, "absent", text="calls of an earlier canary do not come back: restart Triton")
    return limited_calls.Outcome(None, "waited", text="more is waiting than may wait")


def _arm(noise: bool) -> str:
    return PRODUCTION if noise else CANARY


def _are_alike(first: routing.Arrays, second: routing.Arrays) -> bool:
    return all(array.shape == second[name].shape and array.dtype == second[name].dtype for name, array in first.items())
