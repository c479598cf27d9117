"""`enginegate rollout run`, `status`, `history` and `verify`: what reads the evidence."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, command_of
from flows.commands.promotion_commands import actor_of
from flows.commands.rollout_steps import rollout_options
from flows.rollout.rollout_report import (
    history_document,
    outcome_of,
    show_status,
    show_steps,
    show_verified,
    status_document,
    told,
)
from tasks.errors import ExitCode, InputError, StageError, printable
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.conducting import Conductor, OvertakenError
from tasks.rollout.verifying import Verifier
from validation import rollout_judge

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.registry.rollouts import RolloutHistory
    from tasks.rollout.conducting import Conducted

EVERY_S = 30
_MOST_S = 3600


@click.command()
@rollout_options
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.option(
    "--every",
    type=click.IntRange(1, _MOST_S),
    default=EVERY_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between two looks.",
)
@command_of
def run(session: Session, model: str, target: str, once: bool, every: int) -> tuple[Document, int]:
    """Judge MODEL's rollout on what hosts saw, and carry it on: the next step, a hold, or back.

    It ends with the rollout, and may be started again anywhere: all that it knows lies in the registry. Of two that run
    at once, one writes each step, and the other says so.
    """
    conductor = conductor_of(session, RolloutAddress(model, target))
    shown = ""
    while True:
        now = datetime.now(timezone.utc)
        try:
            found = conductor.conduct(now)
            shown = _show_conducted(session, found, shown)
            if once or found.history.open_rollout is None:
                return _end(found, now)
        except (OvertakenError, StageError) as error:
            if once:
                raise
            session.reporter.say(f"! {printable(str(error))}")
        time.sleep(every)


@click.command()
@rollout_options
@command_of
def status(session: Session, model: str, target: str) -> tuple[Document, int]:
    """Say where MODEL's rollout is, how each rule stands on what was seen, and what would decide it.

    Exit codes: 0 it finished, 3 it was rolled back or aborted, 4 it runs, is held or was superseded.
    """
    now = datetime.now(timezone.utc)
    address = RolloutAddress(model, target)
    found, seen = conductor_of(session, address).look(now)
    state = None if found.history.current is None else found.history.current.rollout
    if state is None:
        raise InputError(f"rollout {address}: nothing was ever rolled out; `enginegate rollout start {model}` does")
    show_status(session.reporter, found, seen, now)
    return status_document(found, seen, now), outcome_of(state)[1]


@click.command()
@rollout_options
@command_of
def history(session: Session, model: str, target: str) -> tuple[Document, int]:
    """Show every step of MODEL's rollouts, the newest first: when, who, what, why, and who signed it."""
    found = session.registry.rollouts.read(RolloutAddress(model, target))
    show_steps(session.reporter, found)
    return history_document(found), 0


@click.command()
@rollout_options
@command_of
def verify(session: Session, model: str, target: str) -> tuple[Document, int]:
    """Decide every step of MODEL's rollouts again, from the files that it says it rests on."""
    found: RolloutHistory = session.registry.rollouts.read(RolloutAddress(model, target))
    verified = session.reporter.step(
        "decide again",
        lambda progress: Verifier(session.registry, rollout_judge.make_judge).verify(found, progress),
        lambda verified: f"{len(verified)} steps with evidence of {len(found.steps)}",
    )
    show_verified(session.reporter, verified)
    document: Document = {
        "model": model,
        "target": target,
        "steps": [
            {
                "number": one.step.number,
                "kind": one.step.kind.value,
                "files": one.files,
                "faults": list(one.faults),
                "note": one.note,
            }
            for one in verified
        ],
    }
    return document, ExitCode.REFUSED if any(one.faults for one in verified) else 0


def conductor_of(session: Session, address: RolloutAddress) -> Conductor:
    """Who conducts rollouts here."""
    return Conductor(
        session.registry,
        address,
        rollout_judge.make_judge,
        who=actor_of(session),
        context=session.stage_context(),
        rejected=session.rejected,
    )


def _show_conducted(session: Session, found: Conducted, shown: str) -> str:
    """Print what was done, or what is waited for where that is new; return it."""
    if found.step is not None:
        mark = {"rollback": "✕", "abort": "✕", "hold": "?"}.get(found.step.kind.value, "✓")
        session.reporter.marked(f"{mark} rollout {found.history.address}: {told(found.step)}")
        return ""
    words = "" if found.intent is None else f"{found.intent.action.value}: {printable(found.intent.reason)}"
    if words and words != shown:
        session.reporter.say(f"  {words}")
    return words


def _end(found: Conducted, now: datetime) -> tuple[Document, int]:
    state = None if found.history.current is None else found.history.current.rollout
    if state is None:
        raise InputError(
            f"rollout {found.history.address}: nothing was ever rolled out; `enginegate rollout start` does"
        )
    return status_document(found, None, now), outcome_of(state)[1]
