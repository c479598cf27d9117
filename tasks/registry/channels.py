"""Channels: movable pointers to engines, each with all of its history.

A channel is one object: its moves, the newest last, each a signed document that holds the digest of the one before, so
that none can be changed, dropped or put elsewhere. It is moved by compare-and-swap: of two who move it at once one
wins, and the other is told who. Where it grows long, its older moves go to a part of their own, named by its digest,
which the object holds: a part is written once, and may itself name the part before.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal, TypeVar

from tasks.errors import InputError, RefusedError
from tasks.objects.interface import ChangedError, ObjectStore
from tasks.registry.conditions import require_conditions
from tasks.registry.listeners import Listeners
from tasks.registry.moves import UNNAMED, ChannelAddress, Move, RegistryName, SignedMove
from tasks.registry.trust import TrustedHistory
from tasks.store.digests import canonical_json, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.registry.signing import Signed, Signing

Decided = TypeVar("Decided", Move, "Move | None")

MOST_TRIES = 8
# Some thousand moves, or 15 of the longest texts. What a reader takes at most is 16 times as much.
LONGEST_BYTES = 1 << 20
FIRST_PAUSE_S = 0.02


@dataclass(frozen=True)
class Channel:
    """A channel as it was read: its moves, oldest first, and the version of the object.

    `envelopes` are those of the object itself, and `earlier` the digest of the part with the moves before them.
    """

    address: ChannelAddress
    moves: tuple[SignedMove, ...]
    tag: str | None
    envelopes: tuple[object, ...] = ()
    earlier: str | None = None

    @property
    def current(self) -> Move | None:
        """Where it points; None where nothing was ever promoted to it."""
        return self.moves[-1].move if self.moves else None


class Channels:
    """The channels of a registry. One object serves one reader, whose channels may only ever get longer."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        listeners: Listeners | None = None,
        name: RegistryName = UNNAMED,
    ) -> None:
        self._objects, self._signing, self._listeners = objects, signing, listeners or Listeners()
        self._name = name
        self._parts: dict[str, tuple[object, ...]] = {}  # by digest, with the parts before
        # What the envelopes of the last channel hold and who signed them: facts of their bytes, so that reading it
        # again opens only what is new. Whether they may be believed is asked of `TrustedHistory` at every reading.
        self._opened: dict[bytes, Signed] = {}
        self._final: dict[ChannelAddress, SignedMove] = {}

    def read(self, address: ChannelAddress) -> Channel:
        """Read a channel and check every move of it.

        Raises:
            RefusedError: it is damaged, a move was changed, dropped or comes from elsewhere, the newest is not signed
                by a trusted key where a trust root is set, or this reader saw moves that are gone.
        """
        seen = self._final.get(address)  # before the object: another thread may see a longer history meanwhile
        found = self._objects.read(address.key)
        if found is None:
            TrustedHistory(address, self._name, seen).require_seen()
            return Channel(address, (), None)
        try:
            document = json.loads(found.content)
            envelopes, earlier = tuple(document["moves"]), document.get("earlier")
            moves = self._believe(address, (*self._part(address, earlier), *envelopes), seen)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RefusedError(
                f"channel {address} is damaged; restore it from the bucket's versions or a backup"
            ) from None
        self._final[address] = moves[-1]
        return Channel(address, moves, found.tag, envelopes, earlier)

    def _part(self, address: ChannelAddress, digest: str | None) -> tuple[object, ...]:
        """The envelopes of a part and of those before it, oldest first; none without a digest."""
        if digest is None:
            return ()
        if digest not in self._parts:
            found = self._objects.read(address.part_key(digest))
            if found is None or digest_bytes(found.content) != digest:
                raise RefusedError(
                    f"channel {address}: the part of its history with digest {digest} is missing or damaged; restore it"
                    " from the bucket's versions or a backup"
                )
            document = json.loads(found.content)
            self._parts[digest] = (*self._part(address, document.get("earlier")), *document["moves"])
        return self._parts[digest]

    def _believe(
        self, address: ChannelAddress, envelopes: Iterable[object], seen: SignedMove | None
    ) -> tuple[SignedMove, ...]:
        history, opened = TrustedHistory(address, self._name, seen), {}
        for number, sealed in enumerate(map(canonical_json, envelopes), start=1):
            what = f"channel {address}: move {number}"
            opened[sealed] = self._opened.get(sealed) or self._signing.unseal("move", sealed, what)
            history.add(opened[sealed])
        moves = history.finish()
        self._opened = opened
        return moves

    def move(
        self,
        address: ChannelAddress,
        decide: Callable[[Channel], Decided],
        read: Callable[[ChannelAddress], Channel] | None = None,
    ) -> Decided:
        """Move a channel as `decide` says for what it holds, which is asked again when somebody else moved it first.

        `decide` returns None where nothing is left to do, and raises where the intent no longer holds. Whoever listens
        is told of the move once it is written. `read` reads the channel in place of this reader, where that cannot
        believe its newest move; it has to believe the move that is added.

        Returns:
            The move that was written; None where nothing was left to do.

        Raises:
            RefusedError: see `read`, no reader would believe the move, or others moved the channel again and again.
        """
        for attempt in range(MOST_TRIES):
            channel: Channel = (read or self.read)(address)
            decided = decide(channel)
            if decided is None:
                return decided
            move = decided.model_copy(update={"registry": self._name.text})
            sealed = json.loads(self._signing.seal("move", move.model_dump(mode="json")))
            envelopes = (*self._part(address, channel.earlier), *channel.envelopes, sealed)
            moves = self._believe(address, envelopes, channel.moves[-1] if channel.moves else None)
            require_conditions(self._objects)
            try:
                self._objects.replace(address.key, self._content(channel, sealed), channel.tag)
            except ChangedError:
                # For longer each time, by chance, so that the losers of a race do not meet again.
                time.sleep(random.random() * FIRST_PAUSE_S * 2**attempt)  # noqa: S311 - no secret
                continue
            self._final[address] = moves[-1]
            self._listeners.tell(move)
            return move
        raise RefusedError(
            f"channel {address} was moved by others {MOST_TRIES} times meanwhile; look at `enginegate history` and try"
            " again"
        )

    def _content(self, channel: Channel, sealed: object) -> bytes:
        """The object with one more move; the moves before go to a part where it would grow too long."""
        content = canonical_json(_document(channel.earlier, (*channel.envelopes, sealed)))
        if len(content) <= LONGEST_BYTES:
            return content
        part = canonical_json(_document(channel.earlier, channel.envelopes))
        digest = digest_bytes(part)
        self._objects.create(channel.address.part_key(digest), part)
        return canonical_json(_document(digest, (sealed,)))


def _document(earlier: str | None, envelopes: tuple[object, ...]) -> dict[str, object]:
    return {"moves": envelopes} if earlier is None else {"earlier": earlier, "moves": envelopes}


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
