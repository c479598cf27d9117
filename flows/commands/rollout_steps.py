"""`enginegate rollout start`, `approve`, `hold`, `resume`, `abort`, `freeze` and `thaw`: a person's steps."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from flows.commands.command import Command, Document, FilledPath, command_of
from flows.commands.promotion_commands import actor_of
from flows.rollout.rollout_report import steps_words, told
from tasks.errors import InputError
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout import conducting, taking_back, transitions
from tasks.rollout.plan import read_plan
from tasks.rollout.transitions import By

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.session import Session
    from tasks.registry.rollouts import RolloutHistory, RolloutStep

_REASON = click.option("--reason", metavar="TEXT", help="Why; kept in the history.")


def rollout_options(command: Command) -> Command:
    """The argument MODEL and the option `--target` of every command of `rollout`."""
    target = click.option("--target", required=True, metavar="TARGET", help="Where the engines run.")
    return click.argument("model")(target(command))


@click.command()
@rollout_options
@click.option("--plan", type=FilledPath(), metavar="FILE", help="A rollout.yaml; left out, its defaults hold.")
@_REASON
@command_of
def start(session: Session, model: str, target: str, plan: Path | None, reason: str | None) -> tuple[Document, int]:
    """Roll out the engine that MODEL's canary points at, beside the one in production.

    Nothing but the first step happens: `enginegate rollout run`, or the flow `rollout`, carries it on.
    """
    address = RolloutAddress(model, target)
    read = read_plan(plan)
    step = conducting.start(session.registry, address, read, _by(session, reason))
    state = step.rollout
    assert state is not None  # noqa: S101 - a start has one
    session.reporter.marked(f"✓ rollout {state.id} {address}: {told(step)}")
    session.reporter.say(f"  {state.canary.engine_id} beside {state.production.engine_id}: {steps_words(state)}")
    session.reporter.say(f"  `enginegate rollout run {model} --target {target}` judges it and carries it on")
    return step.model_dump(mode="json"), 0


@click.command()
@rollout_options
@_REASON
@command_of
def approve(session: Session, model: str, target: str, reason: str | None) -> tuple[Document, int]:
    """Let MODEL's rollout enter its next step once it may, where its plan asks for you.

    You are who ENGINEGATE_ACTOR says, else the login name; what it rests on is the key that signs here.
    """
    return _make(session, model, target, transitions.approve, reason)


@click.command()
@rollout_options
@_REASON
@command_of
def hold(session: Session, model: str, target: str, reason: str | None) -> tuple[Document, int]:
    """Leave MODEL's rollout where it is: its traffic stays, and nothing but a failure moves it."""
    return _make(session, model, target, transitions.hold, reason)


@click.command()
@rollout_options
@_REASON
@command_of
def resume(session: Session, model: str, target: str, reason: str | None) -> tuple[Document, int]:
    """Let MODEL's rollout that is held go on, with a horizon of its own."""
    return _make(session, model, target, transitions.resume, reason)


@click.command()
@rollout_options
@_REASON
@command_of
def abort(session: Session, model: str, target: str, reason: str | None) -> tuple[Document, int]:
    """End MODEL's rollout: no traffic for the canary, and the channel goes back to what production serves."""
    step = taking_back.abort(session.registry, RolloutAddress(model, target), _by(session, reason))
    return _tell(session, step)


@click.command()
@rollout_options
@click.option(
    "--until", required=True, metavar="TIME", help="As 2027-01-04 or 2027-01-04T08:00+01:00; UTC if not said."
)
@_REASON
@command_of
def freeze(session: Session, model: str, target: str, until: str, reason: str | None) -> tuple[Document, int]:
    """Let nothing of MODEL move until then but back: no step of a rollout, and no promotion."""
    moment = _moment(until)
    return _make(session, model, target, lambda history, by: transitions.freeze(history, moment, by), reason)


@click.command()
@rollout_options
@_REASON
@command_of
def thaw(session: Session, model: str, target: str, reason: str | None) -> tuple[Document, int]:
    """Let MODEL's rollouts and channels move again."""
    return _make(session, model, target, transitions.thaw, reason)


def _make(
    session: Session, model: str, target: str, rule: Callable[[RolloutHistory, By], RolloutStep], reason: str | None
) -> tuple[Document, int]:
    by = _by(session, reason)
    step = session.registry.rollouts.write(RolloutAddress(model, target), lambda history: rule(history, by))
    return _tell(session, step)


def _tell(session: Session, step: RolloutStep) -> tuple[Document, int]:
    frozen = "" if step.frozen_until is None else f"; frozen until {step.frozen_until}"
    session.reporter.marked(f"✓ rollout {step.address}: {told(step)}{frozen}")
    document: dict[str, Any] = step.model_dump(mode="json")
    return document, 0


def _by(session: Session, reason: str | None) -> By:
    return By(actor_of(session), datetime.now(timezone.utc), reason=reason or "")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--until {text!r}: is no time; write it as 2027-01-04 or 2027-01-04T08:00+01:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
