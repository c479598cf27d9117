"""A rollout as people read it, and as JSON for those who ask by machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.console import MARKS, short_digest
from tasks.errors import ExitCode, printable
from tasks.registry.steps import RolloutStatus
from tasks.rollout.transitions import text_of

if TYPE_CHECKING:
    from flows.console import Reporter
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutState, RolloutStep, SignedStep
    from tasks.rollout.choosing import Seen
    from tasks.rollout.conducting import Conducted
    from tasks.rollout.verifying import Verified

OUTCOMES = {
    RolloutStatus.RUNNING: ("running", ExitCode.INCONCLUSIVE),
    RolloutStatus.HELD: ("inconclusive", ExitCode.INCONCLUSIVE),
    RolloutStatus.FINISHED: ("pass", ExitCode.DONE),
    RolloutStatus.ROLLED_BACK: ("fail", ExitCode.FAIL),
    RolloutStatus.ABORTED: ("fail", ExitCode.FAIL),
    RolloutStatus.SUPERSEDED: ("inconclusive", ExitCode.INCONCLUSIVE),
}
"""What a rollout says of its engine, and the exit code: one that ended early, or runs, is never a success."""
_MARKS = {"running": "→", **MARKS}
_SECOND, _MINUTE, _HOUR, _DAY = 1, 60, 3600, 86_400
_STALE = timedelta(minutes=10)


@dataclass(frozen=True)
class Needed:
    """What would decide an inconclusive look: independent groups of pairs, and seconds at the present rate if any."""

    groups: int
    seconds: float | None


def outcome_of(state: RolloutState) -> tuple[str, ExitCode]:
    """`pass`, `fail`, `inconclusive` or `running`, and the exit code."""
    return OUTCOMES[state.status]


def needed_of(found: Conducted, seen: Seen, now: datetime) -> Needed | None:
    """How much more would decide what is open; None where nothing is, or no number of pairs would."""
    state = found.history.open_rollout
    if found.look is None or state is None:
        return None
    asked = [rule.needed_more for rule in found.look.decision.rules if rule.is_awaited]
    known = [more for more in asked if more is not None]
    if not asked or len(known) < len(asked):
        return None
    groups = max(known)
    elapsed = (now - datetime.fromisoformat(state.stage_since)).total_seconds()
    rate = seen.groups / elapsed if elapsed > 0 else 0.0
    return Needed(groups, groups / rate if rate > 0 else None)


def show_status(reporter: Reporter, found: Conducted, seen: Seen | None, now: datetime) -> None:
    """Print where a rollout is, since when, how each rule stands, and what comes next."""
    current = found.history.current
    state = None if current is None else current.rollout
    if current is None or state is None:
        return
    outcome, _ = outcome_of(state)
    reporter.marked(f"{_MARKS[outcome]} rollout {state.id} {found.history.address}: {_standing(state, now)}")
    reporter.say(f"  canary      {state.canary.engine_id}")
    reporter.say(f"  production  {state.production.engine_id}")
    reporter.say(f"  steps       {steps_words(state)}")
    reporter.say(f"  last        {told(current)}")
    if current.is_frozen(now):
        reporter.marked(f"! nothing moves but back until {current.frozen_until}")
    if found.look is not None and seen is not None:
        _show_look(reporter, found, seen, now)
    elif not state.is_open:
        for line in current.why:
            reporter.say(f"  {printable(line)}")


def _show_look(reporter: Reporter, found: Conducted, seen: Seen, now: datetime) -> None:
    look = found.look
    assert look is not None  # noqa: S101 - asked by the caller
    for rule in look.decision.rules if look.files else ():
        reporter.marked(f"  {MARKS[rule.outcome.value]} {printable(rule.sentence)}")
    tally = look.tally
    counted = f"{look.decision.pairs:,} pairs of {look.decision.groups:,} independent groups"
    reporter.say(f"  seen        {counted}, {sum(tally.requests.values()):,} requests, {tally.warm_up:,} warming up")
    if tally.lost_pairs:
        reporter.marked(f"  ! {tally.lost_pairs:,} pairs were lost by hosts that could not keep up")
    if look.files and now.timestamp() - tally.latest > _STALE.total_seconds():
        reporter.marked(f"  ! nothing new since {_duration(now.timestamp() - tally.latest)}")
    for one in look.refused:
        reporter.marked(f"  ✕ not used: {printable(one.key)} {printable(one.why)}")
    needed = needed_of(found, seen, now)
    if needed is not None:
        when = "" if needed.seconds is None else f", {_duration(needed.seconds)} at the present rate"
        reporter.say(f"  needed      about {needed.groups:,} more independent groups would decide{when}")
    if found.intent is not None:
        reporter.say(f"  next        {found.intent.action.value}: {printable(found.intent.reason)}")


def _standing(state: RolloutState, now: datetime) -> str:
    words = state.status.value.replace("_", " ")
    at = "shadow" if state.step_name == "shadow" else f"{state.step_name} %"
    since = now - datetime.fromisoformat(state.stage_since)
    return f"{words} at {at}, since {state.stage_since} ({_duration(since.total_seconds())})"


def steps_words(state: RolloutState) -> str:
    """`shadow, 1, [5], 25, 100`: the steps of the plan, with the present one in brackets."""
    names = [state.plan.name(stage) for stage in range(state.plan.last + 1)]
    return ", ".join(f"[{name}]" if stage == state.stage else name for stage, name in enumerate(names))


def told(step: RolloutStep) -> str:
    """What a step did, who made it, when and why."""
    reason = f": {printable(step.reason)}" if step.reason else ""
    return f"{step.kind.value} (step {step.number}) by {printable(step.who)} at {step.when}{reason}"


def _duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h` or `2.1 days`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} days"


def status_document(found: Conducted, seen: Seen | None, now: datetime) -> dict[str, Any]:
    """The same as JSON."""
    current = found.history.current
    state = None if current is None else current.rollout
    look, needed = found.look, None if seen is None else needed_of(found, seen, now)
    return {
        "model": found.history.address.model,
        "target": found.history.address.target,
        "outcome": None if state is None else outcome_of(state)[0],
        "rollout": None if state is None else state.model_dump(mode="json"),
        "step": None if state is None else state.step_name,
        "number": None if current is None else current.number,
        "last": None if current is None else current.model_dump(mode="json", exclude={"rollout"}),
        "frozen_until": current.frozen_until if current is not None and current.is_frozen(now) else None,
        "decision": None if look is None or not look.files else _decision_document(found),
        "needed": None if needed is None else {"groups": needed.groups, "seconds": needed.seconds},
        "damaged": [] if look is None else [{"key": one.key, "why": one.why} for one in look.refused],
        "next": None if found.intent is None else {"action": found.intent.action.value, "reason": found.intent.reason},
        "when": text_of(now),
    }


def _decision_document(found: Conducted) -> dict[str, Any]:
    look = found.look
    assert look is not None  # noqa: S101 - asked by the caller
    return {
        "outcome": look.decision.outcome.value,
        "pairs": look.decision.pairs,
        "groups": look.decision.groups,
        "lost_pairs": look.tally.lost_pairs,
        "rules": [
            {
                "name": rule.name,
                "outcome": rule.outcome.value,
                "value": rule.value,
                "limit": rule.limit,
                "groups": rule.groups,
                "needed_more": rule.needed_more,
                "binds": rule.binds,
                "sentence": rule.sentence,
            }
            for rule in look.decision.rules
        ],
    }


def show_steps(reporter: Reporter, history: RolloutHistory) -> None:
    """Print every step, the newest first, with what it was decided by."""
    count = len(history.steps)
    reporter.say(f"rollouts {history.address}: {count or 'no'} {'step' if count == 1 else 'steps'}")
    for one in reversed(history.steps):
        mark = "→" if one is history.steps[-1] else " "
        reporter.marked(f"{mark} {told(one.step)}")
        if one.step.rollout is not None:
            at, standing = one.step.rollout.step_name, one.step.rollout.status.value.replace("_", " ")
            reporter.say(f"      {one.step.rollout.id} {one.step.rollout.canary.engine_id}: {standing} at {at}")
        for line in one.step.why:
            reporter.say(f"      {printable(line)}")
        evidence = "" if one.step.evidence is None else f", evidence {short_digest(one.step.evidence)}"
        reporter.say(f"      {one.signature.words}{evidence}")


def history_document(history: RolloutHistory) -> dict[str, Any]:
    """The steps as JSON, the newest first, with digests and signatures."""
    return {
        "model": history.address.model,
        "target": history.address.target,
        "steps": [_step_document(one) for one in reversed(history.steps)],
    }


def _step_document(one: SignedStep) -> dict[str, Any]:
    return {**one.step.model_dump(mode="json"), "digest": one.digest, "signature": one.signature.words}


def show_verified(reporter: Reporter, found: list[Verified]) -> None:
    """Print for each step whether it follows from its evidence."""
    for one in found:
        mark = "✕" if one.faults else "✓"
        reporter.marked(
            f"{mark} step {one.step.number} ({one.step.kind.value}): {one.files} files, {one.pairs:,} pairs"
        )
        for fault in one.faults:
            reporter.marked(f"    ✕ {printable(fault)}")
        if one.note is not None and not one.faults:
            reporter.marked(f"    ! its files are whole, and its decision was not made again: it {one.note}")
