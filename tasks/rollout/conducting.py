"""Carries a rollout on: one look at a time, each of which ends in one signed step, or in none.

Killed between any two writes, the next look completes what is begun: the step always says first what shall be so.

- Evidence, then the step: evidence that no step names is left over and does no harm.
- Rollback: the step, with which hosts send the canary nothing; then the move of `canary`, looked for at every look.
- Finish: the promotion of `production`, then the step; a rollout whose canary production serves is finished.
- Supersede: the step, then the start of the newer one.

Of two who conduct one rollout at once, the first to write a step wins, and the other is told (`OvertakenError`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import RefusedError, printable
from tasks.records import LONGEST_REASON
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.steps import MOST_LINES, STAYING, RolloutStatus
from tasks.release.promote import carry_out, propose_promotion, require_permission
from tasks.rollout import transitions
from tasks.rollout.choosing import Action, Intent, Seen, choose, horizon_steps
from tasks.rollout.judging import Judging, Look, canary_manifest
from tasks.rollout.plan import settle
from tasks.rollout.taking_back import TAKEN_BACK, shortened, take_back_canary
from tasks.rollout.transitions import By

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tasks.process.context import StageContext
    from tasks.registry.channels import Channel
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutAddress, RolloutState, RolloutStep
    from tasks.release.rejected import RejectedEngines
    from tasks.rollout_spec import RolloutPlan
    from validation.rollout_records import MakeJudge

ID_BYTES = 6
_TOLD_FILES = 3
_STEPS: dict[Action, Callable[[RolloutHistory, By], RolloutStep]] = {
    Action.ADVANCE: transitions.advance,
    Action.FINISH: transitions.finish,
    Action.HOLD: transitions.hold,
    Action.ROLL_BACK: transitions.roll_back,
    Action.ABORT: transitions.abort,
    Action.SUPERSEDE: transitions.supersede,
}


class OvertakenError(RefusedError):
    """Somebody else wrote the step first; nothing was written."""


@dataclass(frozen=True)
class Conducted:
    """What a look came to: the rollouts as they are now, what was intended, the step if one was written, and the look.

    `look` is None where no rollout was open, and `intent` too where nothing was left to do.
    """

    history: RolloutHistory
    intent: Intent | None = None
    step: RolloutStep | None = None
    look: Look | None = None


class Conductor:
    """Conducts the rollouts of one model for one target."""

    def __init__(
        self,
        registry: Registry,
        address: RolloutAddress,
        make_judge: MakeJudge,
        *,
        who: str,
        context: StageContext,
        rejected: RejectedEngines,
    ) -> None:
        """Conduct by this registry; `context` and `rejected` are what a promotion needs."""
        self._registry, self.address, self._make_judge = registry, address, make_judge
        self._who, self._context, self._rejected = who, context, rejected
        self._judging: Judging | None = None

    def look(self, now: datetime) -> tuple[Conducted, Seen | None]:
        """Look at the evidence, and say what is to be done; nothing is written.

        Raises:
            RefusedError: a history, a channel or a manifest cannot be trusted.
        """
        history = self._registry.rollouts.read(self.address)
        state = history.open_rollout
        if state is None:
            return Conducted(history), None
        look = self._judging_of(state).look(history, state)
        seen = seen_at(look, history, state)
        intent = choose(
            history,
            state,
            seen,
            production=self._channel(ChannelName.PRODUCTION).current,
            canary=self._channel(ChannelName.CANARY).current,
            now=now,
        )
        return Conducted(history, intent, None, look), seen

    def conduct(self, now: datetime) -> Conducted:
        """Look, and do what is to be done.

        Raises:
            OvertakenError: somebody else wrote a step first.
            RefusedError: see `look`, or this host's key may not sign the step or the move.
        """
        completed = self.complete(now)
        if completed is not None:
            return completed
        found, _ = self.look(now)
        if found.intent is None or found.intent.action is Action.WAIT or found.look is None:
            return found
        return self._act(found, found.intent, found.look, now)

    def complete(self, now: datetime) -> Conducted | None:
        """Do what an ended rollout still asks for; None where nothing is left.

        Raises:
            RefusedError: see `conduct`.
        """
        history = self._registry.rollouts.read(self.address)
        state = None if history.current is None else history.current.rollout
        if state is None or state.is_open:
            return None
        if state.status in TAKEN_BACK:
            take_back_canary(self._registry, self.address, state, _end_of(history).reason, self._who)
            return None
        if state.status is RolloutStatus.SUPERSEDED:
            return self._start_newer(history, state, now)
        return None

    def _start_newer(self, history: RolloutHistory, state: RolloutState, now: datetime) -> Conducted | None:
        canary, production = self._channel(ChannelName.CANARY).current, self._channel(ChannelName.PRODUCTION).current
        if canary is None or production is None or canary.engine_id in {state.canary.engine_id, production.engine_id}:
            return None
        if history.current is not None and history.current.is_frozen(now):
            return None
        by = By(self._who, now, reason=f"supersedes {state.canary.engine_id}")
        step = start(self._registry, self.address, state.plan, by)
        return Conducted(self._registry.rollouts.read(self.address), None, step)

    def _act(self, found: Conducted, intent: Intent, look: Look, now: datetime) -> Conducted:
        history, state = found.history, found.history.open_rollout
        assert state is not None  # noqa: S101 - there is a look
        evidence = self._judging_of(state).write_evidence(look)
        if intent.action is Action.FINISH:
            intent = self._promote(history, state, evidence, intent)
        by = By(self._who, now, reason=shortened(intent.reason), why=why_lines(look, intent), evidence=evidence)

        def decide(now_there: RolloutHistory) -> RolloutStep:
            require_same(history, now_there)
            return _STEPS[intent.action](now_there, by)

        step = self._registry.rollouts.write(self.address, decide)
        if step.rollout is not None and step.rollout.status in TAKEN_BACK:
            reason = "; ".join([intent.reason, *look.worst])
            take_back_canary(self._registry, self.address, step.rollout, reason, self._who)
        return Conducted(self._registry.rollouts.read(self.address), intent, step, look)

    def _promote(self, history: RolloutHistory, state: RolloutState, evidence: str, intent: Intent) -> Intent:
        """Point production at the canary, by the rules of every promotion; where they forbid it, hold instead."""
        address = ChannelAddress(self.address.model, self.address.target, ChannelName.PRODUCTION)
        if self._is_promoted(address, state):
            return intent
        reason = shortened(f"rollout {state.id} passed ({evidence}): {intent.reason}")
        try:
            proposal = propose_promotion(
                self._registry, self._rejected, address, state.canary.engine_id, rollout=state.id
            )
            require_permission(proposal, None)
            require_same(history, self._registry.rollouts.read(self.address))
            carry_out(self._registry, self._context, proposal, reason=reason, override=None, who=self._who)
        except OvertakenError:
            raise
        except RefusedError as error:
            if self._is_promoted(address, state):  # by another judge, who was faster
                return intent
            return Intent(Action.HOLD, f"passed all steps, and production was not moved: {error}")
        return intent

    def _is_promoted(self, production: ChannelAddress, state: RolloutState) -> bool:
        current, canary = self._registry.channels.read(production).current, state.canary
        return current is not None and (current.engine_id, current.manifest) == (canary.engine_id, canary.manifest)

    def _judging_of(self, state: RolloutState) -> Judging:
        if self._judging is None or self._judging.rollout != state.id:
            self._judging = Judging(self._registry, self.address, state, self._make_judge)
        return self._judging

    def _channel(self, name: ChannelName) -> Channel:
        return self._registry.channels.read(ChannelAddress(self.address.model, self.address.target, name))


def start(registry: Registry, address: RolloutAddress, plan_or_default: RolloutPlan, by: By) -> RolloutStep:
    """Start a rollout of what `canary` points at, by this plan.

    Raises:
        InputError: there is nothing to roll out or to compare with, or the plan does not fit the canary.
        RefusedError: see `transitions.begin`; or the canary cannot be trusted.
    """

    def decide(history: RolloutHistory) -> RolloutStep:
        canary, production = (
            registry.channels.read(ChannelAddress(address.model, address.target, name)).current
            for name in (ChannelName.CANARY, ChannelName.PRODUCTION)
        )
        step = transitions.begin(
            history,
            canary=canary,
            production=production,
            plan=plan_or_default,
            rollout_id=secrets.token_hex(ID_BYTES),
            by=by,
        )
        assert step.rollout is not None  # noqa: S101 - a start has one
        plan = settle(plan_or_default, canary_manifest(registry, step.rollout))
        return step.model_copy(update={"rollout": step.rollout.model_copy(update={"plan": plan})})

    return registry.rollouts.write(address, decide)


def seen_at(look: Look, history: RolloutHistory, state: RolloutState) -> Seen:
    """What a look saw, as far as it matters for what is done."""
    tally = look.tally
    since = horizon_steps(history)
    return Seen(
        outcome=look.decision.outcome if look.files else None,
        sentences=look.sentences if look.files else (),
        groups=len(tally.groups.get(state.stage, ())),
        answered=tally.canary[state.stage],
        requests=sum(tally.requests[number] for number in since),
        refused=len(look.refused),
    )


def why_lines(look: Look, intent: Intent) -> tuple[str, ...]:
    """What a step says of its decision: the rules, the worst pairs of a failure, and what could not be used."""
    lines = list(look.sentences)
    if intent.action is Action.ROLL_BACK:
        lines[1:1] = [f"worst pair: {told}" for told in look.worst]
    if look.refused:
        named = "; ".join(f"{one.key} {one.why}" for one in look.refused[:_TOLD_FILES])
        more = f"; and {len(look.refused) - _TOLD_FILES} more" if len(look.refused) > _TOLD_FILES else ""
        files = "1 damaged file" if len(look.refused) == 1 else f"{len(look.refused)} damaged files"
        lines.insert(0, f"{files} not used: {printable(named)}{more}")
    if look.tally.lost_pairs:
        lines.append(f"{look.tally.lost_pairs:,} pairs were lost by hosts that could not keep up")
    return tuple(line[:LONGEST_REASON] for line in lines[:MOST_LINES])


def require_same(shown: RolloutHistory, now_there: RolloutHistory) -> None:
    """Check that nobody made a step meanwhile.

    Raises:
        OvertakenError: somebody did; it says who and what.
    """
    if [one.digest for one in shown.steps] == [one.digest for one in now_there.steps]:
        return
    last = now_there.current
    what = "" if last is None else f"{printable(last.who)} made step {last.number} ({last.kind.value}) meanwhile; "
    raise OvertakenError(f"rollout {now_there.address}: {what}nothing was written")


def _end_of(history: RolloutHistory) -> RolloutStep:
    """The step that ended the last rollout."""
    return next(one.step for one in reversed(history.steps) if one.step.kind not in STAYING)
