"""Channels: movable pointers to engines, each with all of its history (see `history`)."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal, TypeVar

from tasks.errors import InputError
from tasks.registry.chained import UNNAMED, RegistryName
from tasks.registry.history import History, SignedHistories
from tasks.registry.listeners import Listeners
from tasks.registry.moves import ChannelAddress, Move, SignedMove

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.objects.interface import ObjectStore
    from tasks.registry.signing import Signing

Decided = TypeVar("Decided", Move, "Move | None")


class Channel(History[SignedMove]):
    """A channel as it was read; see `History`."""

    address: ChannelAddress

    @property
    def moves(self) -> tuple[SignedMove, ...]:
        """Its moves, oldest first."""
        return self.records

    @property
    def current(self) -> Move | None:
        """Where it points; None where nothing was ever promoted to it."""
        return self.moves[-1].move if self.moves else None


class Channels(SignedHistories[ChannelAddress, SignedMove, Channel]):
    """The channels of a registry."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        listeners: Listeners[Move] | None = None,
        name: RegistryName = UNNAMED,
    ) -> None:
        super().__init__(objects, signing, Channel, (listeners or Listeners[Move]()).tell, name)

    def move(
        self,
        address: ChannelAddress,
        decide: Callable[[Channel], Decided],
        read: Callable[[ChannelAddress], Channel] | None = None,
    ) -> Decided:
        """Move a channel as `decide` says for what it holds; see `write`."""
        return self.write(address, decide, read)


def next_move(
    channel: Channel,
    *,
    kind: Literal["promote", "rollback", "resign"],
    engine_id: str,
    manifest: str,
    reason: str,
    override: str | None,
    who: str,
) -> Move:
    """The move that follows the last one of a channel."""
    address, last = channel.address, channel.moves[-1] if channel.moves else None
    return Move(
        model=address.model,
        target=address.target,
        channel=address.channel,
        number=len(channel.moves) + 1,
        previous=None if last is None else last.digest,
        kind=kind,
        engine_id=engine_id,
        manifest=manifest,
        before=None if last is None else last.move.engine_id,
        reason=reason,
        override=override,
        who=who,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def move_before(channel: Channel) -> Move:
    """The promotion to which a rollback returns: that of the engine before the one which the channel points at.

    A rollback undoes a promotion, so that a second one goes back further instead of forth again.

    Raises:
        InputError: there is none.
    """
    promotions: list[Move] = []
    for one in channel.moves:
        if one.move.kind == "promote":
            promotions.append(one.move)
        elif one.move.kind == "rollback" and promotions:
            promotions.pop()
    if len(promotions) < 2:  # noqa: PLR2004 - the current one and the one before
        raise InputError(f"channel {channel.address}: has no engine before the current one to return to")
    return promotions[-2]
