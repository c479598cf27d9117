"""`enginegate resign`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.commands.promotion_commands import actor_of, agree
from flows.promotion.promotion_report import written_words
from tasks.errors import ExitCode, RefusedError
from tasks.registry.keys import read_trust
from tasks.release.resign import Resignable, find_resignable, resign_channel, resign_engine, resign_rollouts

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session
    from tasks.registry.keys import TrustedKey
    from tasks.registry.registry import Registry


@click.command()
@click.argument("withdrawn", type=FilledPath(), nargs=-1, metavar="[WITHDRAWN_KEY]...")
@click.option(
    "--model", metavar="MODEL", help="Only this model's engines, channels and rollouts; left out, all of them."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the history of each channel.")
@click.option("--second-key", type=FilledPath(), metavar="FILE", help="A second person's private key; see `promote`.")
@click.option("--yes", is_flag=True, help="Do not ask; for scripts.")
@command_of
def resign(
    session: Session,
    withdrawn: tuple[Path, ...],
    model: str | None,
    reason: str,
    second_key: Path | None,
    *,
    yes: bool,
) -> tuple[Document, int]:
    """Sign anew, with this host's key, what only withdrawn keys signed: after a key has leaked.

    WITHDRAWN_KEY are public keys that are no longer in ENGINEGATE_TRUST, or folders of them with their roles.yaml. All
    that they signed is read and verified first, and shown: look for what you did not make. Engines keep their bytes and
    channels point where they point. Without a key it serves where a second key, or the registry's name, is asked for
    now that was not when a channel moved.
    """
    keys = tuple(key for path in withdrawn for key in read_trust(path))
    registry = session.open_registry(second_key)
    found = session.reporter.step(
        "read and verify",
        lambda progress: find_resignable(registry, keys, model, progress),
        _counted,
        tells_why=False,
    )
    _show(session, found)
    document: Document = {
        "engines": [cell.engine_id for cell in found.engines],
        "channels": [str(channel.address) for channel in found.channels],
        "rollouts": [str(history.address) for history in found.rollouts],
        "faults": list(found.faults),
        "resigned": [],
        "refused": [],
    }
    if not found.is_empty:
        if not yes and not agree(session, "Sign all of it?"):
            session.reporter.say("the answer was no; nothing was signed")
            return document, ExitCode.REFUSED
        _sign(session, registry, keys, found, reason, document)
    return document, ExitCode.REFUSED if found.faults or document["refused"] else 0


def _counted(found: Resignable) -> str:
    rollouts = f", and {len(found.rollouts)} histories of rollouts" if found.rollouts else ""
    return f"{len(found.engines)} engines and {len(found.channels)} channels{rollouts} to sign anew"


def _show(session: Session, found: Resignable) -> None:
    reporter = session.reporter
    for cell in found.engines:
        reporter.say(f"  {cell.engine_id}")
    for channel in found.channels:
        where = "nothing" if channel.current is None else channel.current.engine_id
        reporter.say(f"  {channel.address} → {where}, {len(channel.moves)} moves")
    for history in found.rollouts:
        reporter.say(f"  rollout {history.address}, {len(history.steps)} steps")
    for fault in found.faults:
        reporter.error(fault)


def _sign(
    session: Session,
    registry: Registry,
    keys: tuple[TrustedKey, ...],
    found: Resignable,
    reason: str,
    document: Document,
) -> None:
    """Sign what this host's key may; what it may not is told, for whoever holds the role."""
    who = actor_of(session)
    for cell in found.engines:
        try:
            resign_engine(registry, keys, cell)
        except RefusedError as error:
            _refuse(session, document, str(error))
            continue
        document["resigned"].append(cell.engine_id)
    for channel in found.channels:
        try:
            move = resign_channel(registry, keys, channel, reason=reason, who=who)
        except RefusedError as error:
            _refuse(session, document, str(error))
            continue
        words = "" if move is None else f" (move {written_words(move)})"
        session.reporter.marked(f"✓ {channel.address}{words}")
        document["resigned"].append(str(channel.address))
    for history in found.rollouts:
        try:
            step = resign_rollouts(registry, keys, history, reason=reason, who=who)
        except RefusedError as error:
            _refuse(session, document, str(error))
            continue
        session.reporter.marked(f"✓ rollout {history.address} (step {step.number})")
        document["resigned"].append(f"rollout {history.address}")


def _refuse(session: Session, document: Document, message: str) -> None:
    session.reporter.error(message)
    document["refused"].append(message)
