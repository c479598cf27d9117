"""`enginegate promote`, `rollback` and `history`."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import click

from flows.commands.command import CHANNEL, Command, Document, FilledPath, command_of
from flows.promotion.promotion_report import (
    history_document,
    proposal_document,
    show_history,
    show_proposal,
    written_words,
)
from tasks.errors import ExitCode, InputError, RefusedError
from tasks.registry.keys import read_trust
from tasks.registry.moves import ChannelAddress, ChannelName, Move
from tasks.release.promote import (
    Proposal,
    ReadChannel,
    carry_out,
    propose_promotion,
    propose_rollback,
    require_permission,
)
from tasks.release.resign import as_before

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.session import Session
    from tasks.process.context import StageContext
    from tasks.registry.registry import Registry


_target_option = click.option("--target", required=True, metavar="TARGET", help="Where the engine runs.")
_reason_option = click.option("--reason", metavar="TEXT", help="Why; kept in the history.")
_second_key_option = click.option(
    "--second-key",
    type=FilledPath(),
    metavar="FILE",
    help="A second person's private key: an override into production needs it where two keys may sign that.",
)
_yes_option = click.option("--yes", is_flag=True, help="Do not ask; for scripts.")


def _channel_option(name: str, *, required: bool, text: str) -> Callable[[Command], Command]:
    return click.option(name, "channel", type=CHANNEL, required=required, help=text)


@click.command()
@click.argument("model")
@_target_option
@_channel_option("--to", required=True, text="The channel to move.")
@click.option("--engine", metavar="ENGINE_ID", help="The engine; left out, what the step before points at.")
@_reason_option
@click.option(
    "--override", metavar="REASON", help="Break the rules that forbid it; signed into the history, red for ever."
)
@_second_key_option
@click.option(
    "--withdrawn",
    type=FilledPath(),
    multiple=True,
    metavar="KEY",
    help="A withdrawn public key that signed the channel's newest move; see `resign`.",
)
@_yes_option
@command_of
def promote(
    session: Session,
    model: str,
    target: str,
    channel: str,
    engine: str | None,
    reason: str | None,
    override: str | None,
    second_key: Path | None,
    withdrawn: tuple[Path, ...],
    yes: bool,
) -> tuple[Document, int]:
    """Move a channel of MODEL to an engine: candidate, then staging, then canary, then production.

    Shows what is there now and what would come, and asks. No step is skipped and nothing but a pass moves on, unless
    --override says why. Without --engine, `candidate` gets the best engine that passed of the newest version.
    """
    address = ChannelAddress(model, target, ChannelName(channel))
    registry = session.open_registry(second_key)
    keys = tuple(key for path in withdrawn for key in read_trust(path))
    read = as_before(registry, keys).channels.read if keys else None
    proposal = propose_promotion(registry, session.rejected, address, engine, read)
    return _move(session, registry, proposal, reason or "", override, yes=yes, read=read)


@click.command()
@click.argument("model")
@_target_option
@_channel_option("--channel", required=True, text="The channel to move back.")
@_reason_option
@_second_key_option
@_yes_option
@command_of
def rollback(
    session: Session, model: str, target: str, channel: str, reason: str | None, second_key: Path | None, yes: bool
) -> tuple[Document, int]:
    """Return a channel of MODEL to the engine before; a second time goes back further.

    Shows what is there now and what would come, and asks.
    """
    registry = session.open_registry(second_key)
    proposal = propose_rollback(registry, ChannelAddress(model, target, ChannelName(channel)))
    return _move(session, registry, proposal, reason or "", None, yes=yes)


@click.command()
@click.argument("model")
@_target_option
@_channel_option("--channel", required=False, text="Only this channel; left out, all of them.")
@command_of
def history(session: Session, model: str, target: str, channel: str | None) -> tuple[Document, int]:
    """Show every move of MODEL's channels, the newest first: when, who, what, why, and who signed it.

    An arrow marks where a channel points now; a move that broke a rule says so in red.
    """
    channels, damaged = {}, []
    addresses = ChannelAddress.all_of(model, target)
    for address in addresses if channel is None else [ChannelAddress(model, target, ChannelName(channel))]:
        try:
            found = session.registry.channels.read(address)
        except RefusedError as error:
            session.reporter.error(str(error))
            damaged.append(str(error))
            continue
        show_history(session.reporter, found)
        channels[address.channel.value] = history_document(found)
    document = {"model": model, "target": target, "channels": channels, "damaged": damaged}
    return document, ExitCode.REFUSED if damaged else 0


def _move(
    session: Session,
    registry: Registry,
    proposal: Proposal,
    reason: str,
    override: str | None,
    *,
    yes: bool,
    read: ReadChannel | None = None,
) -> tuple[Document, int]:
    """Show a proposal, ask, and carry it out."""
    who = actor_of(session)
    show_proposal(session.reporter, proposal, override, who)
    if proposal.is_done:
        session.reporter.say(f"{proposal.address} points there already; nothing to do")
        return proposal_document(proposal, None), 0
    require_permission(proposal, override)
    if not yes and not agree(session, "Roll back?" if proposal.kind == "rollback" else "Promote?"):
        session.reporter.say("the answer was no; nothing was moved")
        return proposal_document(proposal, None), ExitCode.REFUSED
    move = _carry_out(session, registry, proposal, reason, override, who, read)
    session.reporter.marked(f"✓ {proposal.address} points at {move.engine_id} (move {written_words(move)})")
    return proposal_document(proposal, move), 0


def _carry_out(
    session: Session,
    registry: Registry,
    proposal: Proposal,
    reason: str,
    override: str | None,
    who: str,
    read: ReadChannel | None,
) -> Move:
    def work(context: StageContext) -> Move:
        return carry_out(registry, context, proposal, reason=reason, override=override, who=who, read=read)

    if proposal.registered:
        return work(session.stage_context())
    return session.reporter.step(
        "register and move",
        lambda progress: work(session.stage_context(progress)),
        lambda move: move.engine_id,
        tells_why=False,
    )


def agree(session: Session, question: str) -> bool:
    """Ask on a terminal.

    Raises:
        InputError: there is nobody to ask.
    """
    wants_json = click.get_current_context().params["as_json"]
    if wants_json or not sys.stdin.isatty():
        nobody = (
            "with --json nobody is asked" if wants_json else "standard input is no terminal, so nobody can be asked"
        )
        raise InputError(f"{nobody}, and nothing was done; add --yes to go on without a question")
    return session.reporter.ask(question)


def actor_of(session: Session) -> str:
    """Who moves channels here: ENGINEGATE_ACTOR, else the login name."""
    named = (session.settings.actor or "").strip()
    if named:
        return named
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise InputError(
            "ENGINEGATE_ACTOR: is not set, and this login has no name; set it to who moves the channel"
        ) from None
