"""Channels: movable pointers to engines, each with all of its history.

A channel is one object: its moves, the newest last, each a signed document that holds the digest of the one before, so
that none can be changed, dropped or put elsewhere. It is moved by compare-and-swap: of two who move it at once one
wins, and the other is told who.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from tasks.errors import InputError, RefusedError
from tasks.objects.interface import ChangedError
from tasks.records import LONGEST_REASON
from tasks.registry.layout import channel_key
from tasks.specs import ENGINE_ID, Digest, Frozen
from tasks.store.digests import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.objects.interface import ObjectStore
    from tasks.registry.signing import Signature, Signed, Signing

EngineId = Annotated[str, Field(pattern=ENGINE_ID.pattern)]

MOST_TRIES = 8
FIRST_PAUSE_S = 0.02


class ChannelName(str, Enum):
    """The channels, in the order in which an engine goes through them."""

    CANDIDATE = "candidate"
    STAGING = "staging"
    CANARY = "canary"
    PRODUCTION = "production"

    @property
    def before(self) -> ChannelName | None:
        """The step before; None for the first."""
        order = list(ChannelName)
        place = order.index(self)
        return order[place - 1] if place else None


class Move(Frozen):
    """One move of a channel: to which engine, by digest of its manifest, from which, why, by whom and when (UTC).

    `number` counts from 1, and `previous` is the digest of the move before. `override` is the reason for breaking a
    rule of promotion, for ever in the history.
    """

    schema_version: Literal[1] = 1
    model: str
    target: str
    channel: ChannelName
    number: Annotated[int, Field(ge=1)]
    previous: Digest | None
    kind: Literal["promote", "rollback"]
    engine_id: EngineId
    manifest: Digest
    before: EngineId | None
    reason: Annotated[str, Field(max_length=LONGEST_REASON)]
    override: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None
    who: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    when: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]


@dataclass(frozen=True)
class SignedMove:
    """A move, the digest of its document, and who signed it."""

    move: Move
    digest: str
    signature: Signature


@dataclass(frozen=True)
class Channel:
    """A channel as it was read: its moves, oldest first, and the version of the object."""

    name: ChannelName
    moves: tuple[SignedMove, ...]
    tag: str | None
    envelopes: tuple[object, ...] = ()

    @property
    def current(self) -> Move | None:
        """Where it points; None where nothing was ever promoted to it."""
        return self.moves[-1].move if self.moves else None


class Channels:
    """The channels of a registry."""

    def __init__(self, objects: ObjectStore, signing: Signing) -> None:
        self._objects, self._signing = objects, signing
        # What the envelopes of the last channel hold, so that reading it again checks only what is new.
        self._known: dict[bytes, Signed] = {}

    def read(self, model: str, target: str, name: ChannelName) -> Channel:
        """Read a channel and check every move of it.

        Raises:
            RefusedError: it is damaged, a move was changed, dropped or comes from elsewhere, or is not signed by a
                trusted key where a trust root is set.
        """
        found = self._objects.read(channel_key(model, target, name.value))
        if found is None:
            return Channel(name, (), None)
        what = f"channel {name.value} of {model} for {target}"
        try:
            envelopes = json.loads(found.content)["moves"]
            sealed = [canonical_json(envelope) for envelope in envelopes]
            opened = [
                self._known.get(content) or self._open(content, f"{what}: move {number}", newest=number == len(sealed))
                for number, content in enumerate(sealed, start=1)
            ]
            moves = tuple(SignedMove(Move.model_validate(one.document), one.digest, one.signature) for one in opened)
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
            raise RefusedError(f"{what} is damaged; restore it from the bucket's versions or a backup") from None
        _require_chain(moves, (model, target, name), what)
        self._known = dict(zip(sealed[:-1], opened[:-1], strict=True))
        return Channel(name, moves, found.tag, tuple(envelopes))

    def _open(self, content: bytes, what: str, *, newest: bool) -> Signed:
        # Each move holds the digest of the one before: whoever signed the newest one signed them all.
        return self._signing.open("move", content, what, vouched_for=not newest)

    def move(
        self,
        model: str,
        target: str,
        name: ChannelName,
        decide: Callable[[Channel], Move | None],
    ) -> Channel:
        """Move a channel as `decide` says for what it holds, which is asked again when somebody else moved it first.

        `decide` returns None where nothing is left to do, and raises where the intent no longer holds.

        Raises:
            RefusedError: others moved it again and again in between.
        """
        for attempt in range(MOST_TRIES):
            channel = self.read(model, target, name)
            move = decide(channel)
            if move is None:
                return channel
            sealed = json.loads(self._signing.seal("move", move.model_dump(mode="json")))
            content = canonical_json({"moves": [*channel.envelopes, sealed]})
            try:
                self._objects.replace(channel_key(model, target, name.value), content, channel.tag)
            except ChangedError:
                # For longer each time, by chance, so that the losers of a race do not meet again.
                time.sleep(random.random() * FIRST_PAUSE_S * 2**attempt)  # noqa: S311 - no secret
                continue
            return self.read(model, target, name)
        raise RefusedError(
            f"channel {name.value} of {model} for {target} was moved by others {MOST_TRIES} times meanwhile; look at"
            " `enginegate history` and try again"
        )


def next_move(
    channel: Channel,
    model: str,
    target: str,
    *,
    kind: Literal["promote", "rollback"],
    engine_id: str,
    manifest: str,
    reason: str,
    override: str | None,
    who: str,
) -> Move:
    """The move that follows the last one of a channel."""
    last = channel.moves[-1] if channel.moves else None
    return Move(
        model=model,
        target=target,
        channel=channel.name,
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
    standing: list[Move] = []
    for one in channel.moves:
        if one.move.kind == "promote":
            standing.append(one.move)
        elif standing:
            standing.pop()
    if len(standing) < 2:  # noqa: PLR2004 - the current one and the one before
        raise InputError(f"channel {channel.name.value}: has no engine before the current one to return to")
    return standing[-2]


def _require_chain(moves: tuple[SignedMove, ...], place: tuple[str, str, ChannelName], what: str) -> None:
    if not moves:
        raise RefusedError(f"{what} has lost its history; restore it from the bucket's versions or a backup")
    previous = None
    for number, one in enumerate(moves, start=1):
        move = one.move
        if (move.model, move.target, move.channel) != place or move.number != number or move.previous != previous:
            raise RefusedError(f"{what}: move {number} does not follow from the one before; do not use it")
        previous = one.digest
