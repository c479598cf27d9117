"""What may move a channel to another engine: the rules of promotion, and the move itself.

A proposal is what a person is shown; it is carried out only where the channel is still as it was shown. No two channels
can be read at one instant, so one that moves between the last look at it and the write is noticed in the history alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.errors import InputError, RefusedError, printable
from tasks.records import LONGEST_REASON, Override
from tasks.registry.channels import Channel, move_before, next_move
from tasks.release.objections import (
    STEPS_NOT_TO_SKIP,
    lacking_pass,
    made_up_data,
    promotion_objections,
    require_no_new,
    require_running,
    require_thawed,
)
from tasks.release.publish import publish_engine
from tasks.release.select import (
    best_of_newest,
    engine_of,
    find_engine,
    parse_engine,
    points_at,
    read_current,
    require_servable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.process.context import StageContext
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelAddress, Move
    from tasks.registry.registry import Registry
    from tasks.release.rejected import RejectedEngines

ReadChannel: TypeAlias = "Callable[[ChannelAddress], Channel]"


@dataclass(frozen=True)
class Proposal:
    """A move that somebody thinks of: what a person is shown, and what the move rests on.

    `channel` is as it was read. `current` is what it points at, None where that is nothing or cannot be read, and then
    `current_fault` says why. `objections` are the rules that the move breaks, one sentence each: only an override moves
    it then. A rollback carries over the `override` of the move that it returns to. Where `registered` is False, an
    override registers the engine first; until then its `proposed.digest` is that of the manifest without one.
    `rollout` is the id of the rollout that promotes the engine, where one does and no person.
    """

    channel: Channel
    kind: Literal["promote", "rollback"]
    current: SignedManifest | None
    proposed: SignedManifest
    objections: tuple[str, ...]
    override: str | None
    registered: bool = True
    current_fault: str | None = None
    rollout: str | None = None

    @property
    def address(self) -> ChannelAddress:
        """The channel that would move."""
        return self.channel.address

    @property
    def is_done(self) -> bool:
        """Whether the channel points there already, so that nothing is left to do."""
        current = self.channel.current
        return current is not None and points_at(current, self.proposed)


def propose_promotion(
    registry: Registry,
    kept: RejectedEngines,
    address: ChannelAddress,
    engine_id: str | None,
    read: ReadChannel | None = None,
    rollout: str | None = None,
) -> Proposal:
    """What a promotion would do. Nothing is moved.

    Args:
        registry: with the engine and the channels.
        kept: the engines that this host converted and that did not pass.
        address: the channel to move.
        engine_id: the engine; None for what the step before points at. `candidate`, and `staging` where there is no
            candidate, get the best engine that passed of the version that was converted last (see `ranking`).
        read: reads the channel in place of the registry, where a withdrawn key signed its newest move.
        rollout: the id of the open rollout that has taken the engine through `canary` and promotes it now.

    Raises:
        InputError: the engine's id is none or of another model or target, or there is no such engine.
        RefusedError: a channel or a manifest is damaged, not signed by a trusted key where a trust root is set, or
            contradicts itself, files of the engine are missing, or a freeze stands.
    """
    _require_trusted_signature(registry, address)
    require_thawed(registry, address)
    cell = None if engine_id is None else parse_engine(engine_id, address)
    channel = (read or registry.channels.read)(address)
    before = _step_before(registry, address, needed=cell is None)
    if cell is not None:
        proposed, registered = find_engine(registry, kept, cell)
    else:
        proposed, registered = _default(registry, address, before), True
    current, fault = read_current(registry, channel)
    return Proposal(
        channel=channel,
        kind="promote",
        current=current,
        proposed=proposed,
        objections=promotion_objections(registry, address, before, proposed, rollout),
        override=None,
        registered=registered,
        current_fault=fault,
        rollout=rollout,
    )


def propose_rollback(registry: Registry, address: ChannelAddress) -> Proposal:
    """What a return of a channel to the engine before would do. Nothing is moved.

    Raises:
        InputError: there is no engine before.
        RefusedError: the channel or that engine's manifest is damaged, not signed by a trusted key where a trust root
            is set, or contradicts itself, or files of the engine are missing.
    """
    _require_trusted_signature(registry, address)
    channel = registry.channels.read(address)
    move = move_before(channel)
    proposed = engine_of(registry, move)
    require_servable(registry, proposed)
    current, fault = read_current(registry, channel)
    return Proposal(
        channel=channel,
        kind="rollback",
        current=current,
        proposed=proposed,
        objections=() if move.override else (*lacking_pass(proposed), *made_up_data(address, proposed)),
        override=move.override,
        current_fault=fault,
    )


def require_permission(proposal: Proposal, override: str | None) -> None:
    """Check that a proposal breaks no rule, or that somebody says why it may.

    Raises:
        RefusedError: it breaks one, and there is no override.
        InputError: there is an override and no rule to break.
    """
    if override is not None and proposal.kind == "rollback":
        raise InputError("override: a rollback carries over that of the move it returns to; leave it out")
    if override is not None and not proposal.objections:
        raise InputError(
            "override: this promotion breaks no rule, and the history would say for ever that it did; leave it out"
        )
    if override is None and proposal.objections:
        remedy = (
            "`--override REASON` breaks the rule, signed into the history for ever"
            if proposal.kind == "promote"
            else "promote another engine"
        )
        raise RefusedError(
            f"{proposal.address} does not move to {proposal.proposed.manifest.engine_id}:"
            f" {'; '.join(proposal.objections)}; {remedy}"
        )


def carry_out(
    registry: Registry,
    context: StageContext,
    proposal: Proposal,
    *,
    reason: str,
    override: str | None,
    who: str,
    read: ReadChannel | None = None,
) -> Move:
    """Move the channel as proposed, if everything is as it was shown; return the move.

    An engine that is not registered is registered first, with the override in its manifest. Killed anywhere, the
    channel is the old or the new one. Where it points there already, nothing is done and its last move is returned.

    Args:
        registry: with the engine and the channels.
        context: with the artifact store; told of the progress where the engine is registered first.
        proposal: of `propose_promotion` or `propose_rollback`.
        reason: why, at most 2,000 characters; may be empty.
        override: why a rule may be broken; None where none is.
        who: moves it.
        read: as for `propose_promotion`.

    Raises:
        InputError: a text is too long or holds what is no text.
        RefusedError: the proposal breaks a rule without an override; somebody moved the channel meanwhile, or the
            channel of the step before; the engine no longer is what was shown, or is damaged; or what this host writes
            would not be trusted here.
    """
    if proposal.is_done and proposal.channel.current is not None:
        return proposal.channel.current
    require_permission(proposal, override)
    _require_lines(reason=reason, override="-" if override is None else override, who=who)
    _require_trusted_signature(registry, proposal.address, override or proposal.override)
    proposed = (
        proposal.proposed if proposal.registered else _publish_overridden(registry, context, proposal, override, who)
    )

    def decide(channel: Channel) -> Move:
        _require_unmoved(proposal, channel)
        _require_rules(registry, proposal, override)
        _require_unchanged(registry, proposed)
        return next_move(
            channel,
            kind=proposal.kind,
            engine_id=proposed.manifest.engine_id,
            manifest=proposed.digest,
            reason=reason,
            override=proposal.override if proposal.kind == "rollback" else override,
            who=who,
        )

    return registry.channels.move(proposal.address, decide, read)


def _step_before(registry: Registry, address: ChannelAddress, *, needed: bool) -> Channel | None:
    """The channel of the step before, where a default or a rule asks for it."""
    if address.before is None or not (needed or address.channel in STEPS_NOT_TO_SKIP):
        return None
    return registry.channels.read(address.before)


def _require_lines(*, reason: str, override: str, who: str) -> None:
    """What is kept for ever must be fit to be shown; only a reason may be empty."""
    for field, text in {"reason": reason or "-", "override": override, "who": who}.items():
        if not text.strip():
            raise InputError(f"{field}: is blank; write a text")
        if len(text) > LONGEST_REASON:
            raise InputError(f"{field}: has {len(text):,} characters, and {LONGEST_REASON:,} is the most; shorten it")
        odd = next((each for each in text if not each.isprintable()), None)
        if odd is not None:
            raise InputError(
                f"{field}: holds {odd!a}, which cannot be shown in a history; write it in one line of text"
            )


def _require_trusted_signature(registry: Registry, address: ChannelAddress, override: str | None = None) -> None:
    """What would be refused once a person said yes, or the engine was registered, is refused before."""
    like = {"model": address.model, "channel": address.channel.value, "override": override}
    registry.signing.seal("move", like)


def _publish_overridden(
    registry: Registry, context: StageContext, proposal: Proposal, override: str | None, who: str
) -> SignedManifest:
    """Register an engine that did not pass, with the reason in its manifest; it is served only where a channel says."""
    shown = proposal.proposed.manifest
    _require_unmoved(proposal, registry.channels.read(proposal.address))
    if registry.engines.has(shown.cell):
        raise RefusedError(f"{shown.engine_id} was registered by somebody meanwhile; nothing was moved: look again")
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    overridden = shown.model_copy(update={"override": Override(reason=override or "", who=who, when=when)})
    publish_engine(context, registry, overridden)
    return registry.engines.read_signed(shown.cell)


def _require_unmoved(proposal: Proposal, channel: Channel) -> None:
    if [one.digest for one in channel.moves] == [one.digest for one in proposal.channel.moves]:
        return
    if len(channel.moves) <= len(proposal.channel.moves) or channel.current is None:
        raise RefusedError(f"{proposal.address} has another history than before; nothing was moved: look again")
    raise RefusedError(_lost_to(proposal.address, channel.current))


def _lost_to(address: ChannelAddress, move: Move) -> str:
    reason = f" ({printable(move.reason)})" if move.reason else ""
    return (
        f"{address}: {printable(move.who)} moved it to {move.engine_id} at {move.when}{reason} meanwhile; you moved"
        " nothing: look again"
    )


def _require_rules(registry: Registry, proposal: Proposal, override: str | None) -> None:
    """A freeze, a rollout, or what the step before points at may have come since the proposal was shown."""
    if proposal.kind == "rollback":
        return
    require_thawed(registry, proposal.address)
    if proposal.rollout is not None:
        require_running(registry, proposal.address, proposal.rollout)
    else:
        require_no_new(registry, proposal.address, proposal.proposed, proposal.objections)
        if override is None:
            _require_step(registry, proposal)


def _require_step(registry: Registry, proposal: Proposal) -> None:
    step = proposal.address.before
    if proposal.address.channel not in STEPS_NOT_TO_SKIP or step is None:
        return
    before = registry.channels.read(step)
    if before.current is None:
        raise RefusedError(f"{step} points at nothing any more; look again")
    if not points_at(before.current, proposal.proposed):
        raise RefusedError(_lost_to(step, before.current))


def _require_unchanged(registry: Registry, proposed: SignedManifest) -> None:
    again = registry.engines.read_signed(proposed.manifest.cell)
    if again.digest != proposed.digest:
        raise RefusedError(f"{proposed.manifest.engine_id}: its manifest was replaced meanwhile; do not use it")
    require_servable(registry, again)


def _default(registry: Registry, address: ChannelAddress, before: Channel | None) -> SignedManifest:
    if before is not None and before.current is not None:
        proposed = engine_of(registry, before.current)
    elif before is not None and address.channel in STEPS_NOT_TO_SKIP:
        raise InputError(
            f"{before.address}: points at no engine yet that {address.channel.value} could take; promote one to"
            f" {before.address.channel.value} first"
        )
    else:
        proposed = best_of_newest(registry, address)
    require_servable(registry, proposed)
    return proposed
