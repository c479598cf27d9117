"""What is done about what the judge says: pure, from what stands and what was seen to one intent.

In this order; the first that applies is done:

1. The evidence says *fail*: the rollout is rolled back, also where it is held or frozen.
2. `production` was moved, be it and back again: it is held, since pairs compare with another engine, or a person did
   not want this one; where it is the canary, and all of the traffic was the canary's, the finish is left to write.
3. A person moved `canary` back to what production serves: the rollout is aborted.
4. `canary` points at a newer engine, and the plan lets that supersede: the rollout is superseded.
5. It is held, or nothing may move: it waits.
6. The evidence says *pass*, this stage has some of its own, its soak is over and whoever has to approve has: it goes to
   the next step, or is finished at the last.
7. The evidence does not say *pass*, and the horizon is over: it is held, or rolled back where the plan says so.
8. It waits. Without traffic, without files and without a judge there is nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from tasks.errors import printable
from tasks.registry.steps import RolloutStatus, StepKind
from tasks.rollout.transitions import missing_approval
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.registry.moves import Move
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutState, ServedEngine

PROMOTED = "production points at it"
"""Why a rollout is finished whose judge was killed between the promotion and the step."""
LEAST_GROUPS = 30
"""Independent groups of pairs that a stage needs of its own, so that an earlier stage does not speak for it."""
LEAST_REQUESTS = 30
"""Requests that the canary itself answered in a stage with some weight."""


class Action(str, Enum):
    """What is to be done."""

    WAIT = "wait"
    ADVANCE = "advance"
    FINISH = "finish"
    HOLD = "hold"
    ROLL_BACK = "rollback"
    ABORT = "abort"
    SUPERSEDE = "supersede"


@dataclass(frozen=True)
class Seen:
    """What was seen at a look.

    `outcome` is None where nothing was, and `sentences` are those of the rules, the worst first. `groups` and
    `answered` are those of the present stage, `requests` those since the horizon began. `refused` counts the files
    that could not be used.
    """

    outcome: Outcome | None
    sentences: tuple[str, ...]
    groups: int
    answered: int
    requests: int
    refused: int = 0


@dataclass(frozen=True)
class Intent:
    """What is to be done, and why, in a sentence without its full stop."""

    action: Action
    reason: str


def choose(
    history: RolloutHistory,
    state: RolloutState,
    seen: Seen,
    *,
    production: Move | None,
    canary: Move | None,
    now: datetime,
) -> Intent:
    """What is to be done with an open rollout; see the module for the order."""
    if seen.outcome is Outcome.FAIL:
        too_late = production is not None and _is(production, state.canary)
        more = "; production points at it already, so roll that back too" if too_late else ""
        return Intent(Action.ROLL_BACK, f"{_worst(seen)}{more}")
    frozen = history.current is not None and history.current.is_frozen(now)
    forced = _moved_production(state, production) or _moved_canary(state, canary, frozen=frozen)
    if forced is not None:
        return forced
    if state.status is RolloutStatus.HELD:
        return Intent(Action.WAIT, "is held")
    if frozen and history.current is not None:
        return Intent(Action.WAIT, f"is frozen until {history.current.frozen_until}")
    if seen.outcome is Outcome.PASS:
        return _go_on(history, state, seen, now)
    return _go_undecided(history, state, seen, now)


def _moved_production(state: RolloutState, production: Move | None) -> Intent | None:
    if production is None:
        return None
    who = printable(production.who)
    if _is(production, state.production):
        if production.number == state.production.move or production.kind == "resign":
            return None
        return _held(
            state, f"{who} moved production, and back to {production.engine_id}, meanwhile; abort it or start again"
        )
    if not _is(production, state.canary):
        moved = f"{who} moved production to {production.engine_id}"
        return _held(state, f"{moved}, which no pair was compared with; abort it and start again")
    if state.stage == state.plan.last and state.status is RolloutStatus.RUNNING:
        return Intent(Action.FINISH, PROMOTED)
    return _held(state, f"{who} moved production to it meanwhile; abort it, which leaves production alone")


def _moved_canary(state: RolloutState, canary: Move | None, *, frozen: bool) -> Intent | None:
    if canary is None or _is(canary, state.canary):
        return None
    if _is(canary, state.production):
        return Intent(Action.ABORT, f"{printable(canary.who)} moved canary back to {canary.engine_id}")
    if state.plan.newer == "supersede" and not frozen:
        return Intent(Action.SUPERSEDE, f"{printable(canary.who)} moved canary to {canary.engine_id}")
    return None


def _held(state: RolloutState, reason: str) -> Intent:
    return Intent(Action.HOLD if state.status is RolloutStatus.RUNNING else Action.WAIT, reason)


def _is(move: Move, engine: ServedEngine) -> bool:
    return (move.engine_id, move.manifest) == (engine.engine_id, engine.manifest)


def _go_on(history: RolloutHistory, state: RolloutState, seen: Seen, now: datetime) -> Intent:
    lacking = _lacking(state, seen, now) or missing_approval(history)
    if lacking is not None:
        return Intent(Action.WAIT, f"passes so far, and {lacking}")
    said = f"passed {state.step_name}: {_worst(seen)}"
    return Intent(Action.FINISH if state.stage == state.plan.last else Action.ADVANCE, said)


def _go_undecided(history: RolloutHistory, state: RolloutState, seen: Seen, now: datetime) -> Intent:
    over = _horizon(history, state, seen, now)
    if over is None:
        return Intent(Action.WAIT, _worst(seen))
    action = Action.ROLL_BACK if state.plan.undecided == "rollback" else Action.HOLD
    return Intent(action, f"undecided at its horizon, {over}: {_worst(seen)}")


def _lacking(state: RolloutState, seen: Seen, now: datetime) -> str | None:
    """What a stage lacks before it may be left, though all of the evidence passes."""
    ends = datetime.fromisoformat(state.stage_since) + state.plan.soak_time
    if now < ends:
        return f"soaks until {ends.isoformat(timespec='seconds')}"
    # Where the canary answers all of the traffic, production answers none that could be mirrored.
    if state.weight < 100 and seen.groups < LEAST_GROUPS:  # noqa: PLR2004 - percent
        return f"waits for {LEAST_GROUPS - seen.groups} more independent pairs of this step"
    if state.weight > 0 and seen.answered < LEAST_REQUESTS:
        return f"waits for {LEAST_REQUESTS - seen.answered} more requests that the canary answers in this step"
    return None


def horizon_steps(history: RolloutHistory) -> Collection[int]:
    """The numbers of the steps since the horizon began: with the start, or the last `resume`."""
    numbers: list[int] = []
    for one in reversed(history.steps):
        numbers.append(one.step.number)
        if one.step.kind in {StepKind.START, StepKind.RESUME}:
            break
    return numbers


def _horizon(history: RolloutHistory, state: RolloutState, seen: Seen, now: datetime) -> str | None:
    """Why the horizon is over; None where it is not."""
    first = min(horizon_steps(history))
    began = datetime.fromisoformat(history.steps[first - 1].step.when)
    horizon = state.plan.horizon
    if seen.requests >= horizon.requests:
        return f"{seen.requests:,} requests of {horizon.requests:,}"
    if now - began >= timedelta(hours=horizon.hours):
        return f"{horizon.hours:g} hours"
    return None


def _worst(seen: Seen) -> str:
    return seen.sentences[0].removesuffix(".") if seen.sentences else "nothing was seen"
