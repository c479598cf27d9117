"""The steps of a rollout: each a pure function from what stands to the step that follows, or why none may.

The signed history checks once more what a step may change (`tasks.registry.rollouts`); here is said, to people, why a
step is refused. Nothing reads a clock, a store or chance: `By` and the arguments bring them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError, printable
from tasks.records import LONGEST_REASON
from tasks.registry.rollouts import RolloutHistory, next_step
from tasks.registry.steps import (
    LEADS_TO,
    OPEN,
    STAYING,
    ProductionEngine,
    RolloutState,
    RolloutStatus,
    RolloutStep,
    ServedEngine,
    StepKind,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.registry.moves import Move
    from tasks.rollout_spec import RolloutPlan


@dataclass(frozen=True)
class By:
    """Who makes a step, why, and when (UTC); `why` and `evidence` are those of a decision, if one led to it."""

    who: str
    when: datetime
    reason: str = ""
    why: tuple[str, ...] = ()
    evidence: str | None = None

    def __post_init__(self) -> None:
        if not self.who.strip() or len(self.who) > LONGEST_REASON:
            raise InputError("who: is blank or too long; set ENGINEGATE_ACTOR to a name")
        if len(self.reason) > LONGEST_REASON:
            raise InputError(
                f"reason: has {len(self.reason):,} characters, and {LONGEST_REASON:,} is the most; shorten it"
            )
        odd = next((each for each in self.who + self.reason if not each.isprintable()), None)
        if odd is not None:
            raise InputError(f"reason: holds {odd!a}, which cannot be shown in a history; write it in one line of text")


def text_of(moment: datetime) -> str:
    """A moment as histories write it: UTC, to the second."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")


def begin(
    history: RolloutHistory,
    *,
    canary: Move | None,
    production: Move | None,
    plan: RolloutPlan,
    rollout_id: str,
    by: By,
) -> RolloutStep:
    """The first step of a rollout of what `canary` points at, beside what `production` points at.

    Args:
        history: of the model and target.
        canary: the newest move of the channel `canary`; None where it points at nothing.
        production: that of `production`.
        plan: with its rules settled (`tasks.rollout.plan.settle`).
        rollout_id: 12 hexadecimal digits of chance.
        by: who starts it.

    Raises:
        InputError: a channel points at nothing, so that there is nothing to roll out or to compare with.
        RefusedError: a rollout is open, nothing may move, or both channels point at the same engine.
    """
    address = history.address
    promote = f"enginegate promote {address.model} --target {address.target} --to"
    history.require_thawed(by.when)
    if history.open_rollout is not None and history.current is not None:
        state = history.open_rollout
        raise RefusedError(
            f"rollout {address}: one of {state.canary.engine_id} is {state.status.value} at {state.step_name}, by"
            f" {printable(history.current.who)}; wait for its end, or `enginegate rollout abort` it"
        )
    if canary is None:
        raise InputError(f"canary {address}: points at nothing that could be rolled out; `{promote} canary` first")
    if production is None:
        raise InputError(
            f"production {address}: points at nothing that a canary could be compared with; the first engine comes"
            f" there by `{promote} production`"
        )
    if (canary.engine_id, canary.manifest) == (production.engine_id, production.manifest):
        raise RefusedError(
            f"canary {address}: points at {canary.engine_id}, which production serves already; `{promote} canary` with"
            " another engine first"
        )
    state = RolloutState(
        id=rollout_id,
        production=ProductionEngine(
            engine_id=production.engine_id, manifest=production.manifest, move=production.number
        ),
        canary=ServedEngine(engine_id=canary.engine_id, manifest=canary.manifest),
        plan=plan,
        stage=0,
        stage_since=text_of(by.when),
        weight=plan.weight(0),
        mirror=plan.mirror,
        status=RolloutStatus.RUNNING,
    )
    return _step(history, StepKind.START, state, by)


def advance(history: RolloutHistory, by: By) -> RolloutStep:
    """The next stage of the plan.

    Raises:
        RefusedError: no rollout runs, it is at its last stage, nothing may move, or nobody has approved that stage.
    """
    state = _require(history, {RolloutStatus.RUNNING})
    history.require_thawed(by.when)
    if state.stage == state.plan.last:
        raise RefusedError(f"rollout {history.address}: is at its last step; it finishes, and goes no further")
    lacking = missing_approval(history)
    if lacking is not None:
        raise RefusedError(f"rollout {history.address}: {lacking}")
    stage = state.stage + 1
    changes = {"stage": stage, "stage_since": text_of(by.when), "weight": state.plan.weight(stage)}
    return _step(history, StepKind.ADVANCE, state.model_copy(update=changes), by)


def hold(history: RolloutHistory, by: By) -> RolloutStep:
    """Leave a rollout where it is: hosts go on as they do, and nothing but a failure moves it.

    Raises:
        RefusedError: no rollout runs.
    """
    return _change(history, StepKind.HOLD, {RolloutStatus.RUNNING}, by)


def resume(history: RolloutHistory, by: By) -> RolloutStep:
    """Let a rollout that is held run again, with a horizon of its own.

    Raises:
        RefusedError: none is held, or nothing may move.
    """
    history.require_thawed(by.when)
    return _change(history, StepKind.RESUME, {RolloutStatus.HELD}, by)


def roll_back(history: RolloutHistory, by: By) -> RolloutStep:
    """End a rollout since its evidence says so: no weight and no mirror from now on.

    Raises:
        RefusedError: none is open.
    """
    return _change(history, StepKind.ROLLBACK, OPEN, by)


def abort(history: RolloutHistory, by: By) -> RolloutStep:
    """End a rollout since a person says so: no weight and no mirror from now on.

    Raises:
        RefusedError: none is open.
    """
    return _change(history, StepKind.ABORT, OPEN, by)


def supersede(history: RolloutHistory, by: By) -> RolloutStep:
    """End a rollout since a newer engine takes its place.

    Raises:
        RefusedError: none is open, or nothing may move.
    """
    history.require_thawed(by.when)
    return _change(history, StepKind.SUPERSEDE, OPEN, by)


def finish(history: RolloutHistory, by: By) -> RolloutStep:
    """End a rollout whose engine production points at now.

    Raises:
        RefusedError: none runs, or it is not at its last stage.
    """
    state = _require(history, {RolloutStatus.RUNNING})
    if state.stage != state.plan.last:
        raise RefusedError(f"rollout {history.address}: is at {state.step_name}, and finishes from 100 alone")
    return _change(history, StepKind.FINISH, {RolloutStatus.RUNNING}, by)


def approve(history: RolloutHistory, by: By) -> RolloutStep:
    """Let a rollout enter its next stage once it may.

    Raises:
        RefusedError: none is open, its next stage asks nobody, or not this person.
    """
    state = _require(history, OPEN)
    named = state.plan.approvers(state.stage + 1)
    if not named:
        raise RefusedError(
            f"rollout {history.address}: is at {state.step_name}, and nobody has to approve what follows; leave it"
        )
    if by.who not in named:
        raise RefusedError(
            f"rollout {history.address}: step {state.plan.name(state.stage + 1)} is approved by {_either(named)}, and"
            f" you are {printable(by.who)}; ask one of them, or set ENGINEGATE_ACTOR to the name that the plan has"
        )
    return _step(history, StepKind.APPROVE, state, by)


def freeze(history: RolloutHistory, until: datetime, by: By) -> RolloutStep:
    """Let nothing move until then but back.

    Raises:
        InputError: that moment has passed.
    """
    if until <= by.when:
        raise InputError(f"--until: {text_of(until)} has passed; name a later moment")
    step = _step(history, StepKind.FREEZE, None if history.current is None else history.current.rollout, by)
    return step.model_copy(update={"frozen_until": text_of(until)})


def thaw(history: RolloutHistory, by: By) -> RolloutStep:
    """Let things move again.

    Raises:
        RefusedError: nothing is frozen.
    """
    if history.current is None or not history.current.is_frozen(by.when):
        raise RefusedError(f"rollout {history.address}: is not frozen; leave it")
    step = _step(history, StepKind.THAW, history.current.rollout, by)
    return step.model_copy(update={"frozen_until": None})


def missing_approval(history: RolloutHistory) -> str | None:
    """Who has to approve the next stage and has not, since the rollout last moved; None where nobody has to."""
    state = history.open_rollout
    named = () if state is None else state.plan.approvers(state.stage + 1)
    if not named or state is None:
        return None
    for one in reversed(history.steps):
        if one.step.kind is StepKind.APPROVE and one.step.who in named:
            return None
        if one.step.kind not in STAYING:
            break
    name = state.plan.name(state.stage + 1)
    return f"step {name} waits for `enginegate rollout approve` by {_either(named)}"


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(printable, names))


def _require(history: RolloutHistory, statuses: set[RolloutStatus] | frozenset[RolloutStatus]) -> RolloutState:
    state = None if history.current is None else history.current.rollout
    if state is None or state.status not in statuses:
        now = "nothing was ever rolled out" if state is None else f"the last one is {state.status.value}"
        wanted = " or ".join(sorted(status.value for status in statuses))
        raise RefusedError(f"rollout {history.address}: none is {wanted} ({now}); see `enginegate rollout status`")
    return state


def _change(
    history: RolloutHistory, kind: StepKind, statuses: set[RolloutStatus] | frozenset[RolloutStatus], by: By
) -> RolloutStep:
    state, status = _require(history, statuses), LEADS_TO[kind]
    ended = {} if status in OPEN else {"weight": 0.0, "mirror": 0.0}
    return _step(history, kind, state.model_copy(update={"status": status, **ended}), by)


def _step(history: RolloutHistory, kind: StepKind, state: RolloutState | None, by: By) -> RolloutStep:
    return next_step(
        history,
        kind=kind,
        rollout=state,
        who=by.who,
        when=text_of(by.when),
        reason=by.reason,
        why=by.why,
        evidence=by.evidence,
    )
