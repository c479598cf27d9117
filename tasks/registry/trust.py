"""Which history of a channel may be believed: every rule of trust in one place, without reading or writing anything."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.errors import RefusedError, printable
from tasks.registry.evidence import CLOCKS_APART
from tasks.registry.moves import UNNAMED, ChannelAddress, Move, RegistryName, SignedMove

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.registry.signing import Signed


class TrustedHistory:
    """The history of one channel, taken in move by move, oldest first.

    A move is *intermediate* while it is only known to belong where it lies. *Final* is said of the newest move of a
    whole history and of no other. The rules, in the order in which they are applied:

    1. Each move is a document that can be read. That its envelope is whole was seen when it was opened.
    2. It is a move of this registry and channel, its number is its place, and it holds the digest of the move before.
       With that it is intermediate: who signed it is noted and not yet asked.
    3. `finish`: there is a move, since a channel that was ever moved never loses its history.
    4. The newest move is signed by a key that is trusted now. What it was before does not count: a move whose key was
       withdrawn is a good intermediate one below a final one, and refused once it comes to be the newest.
    5. It is not dated in the future, by more than clocks differ.
    6. That makes it final, and through the chain of digests it vouches for every move below it.
    7. The move that this reader took for final the last time is in the history, else somebody rewound the channel.

    Nothing of a history is handed out before the last rule.
    """

    def __init__(self, address: ChannelAddress, name: RegistryName = UNNAMED, seen: SignedMove | None = None) -> None:
        """Begin with no move.

        Args:
            address: of the channel.
            name: of the registry that it is read from.
            seen: the move that this reader took for final the last time; None for the first.
        """
        self._address, self._name, self._seen = address, name, seen
        self._what = f"channel {address}"
        self._moves: list[SignedMove] = []

    def add(self, signed: Signed) -> None:
        """Take in the next move, as an intermediate one.

        Raises:
            RefusedError: it is no move, or does not follow from the one before.
        """
        try:
            move = Move.model_validate(signed.document)
        except ValidationError:
            raise RefusedError(f"{self._what} is damaged; restore it from the bucket's versions or a backup") from None
        number = len(self._moves) + 1
        previous = self._moves[-1].digest if self._moves else None
        address = (self._address.model, self._address.target, self._address.channel)
        if (move.model, move.target, move.channel, move.number, move.previous) != (*address, number, previous):
            raise RefusedError(f"{self._what}: move {number} does not follow from the one before; do not use it")
        if self._name.text is not None and move.registry not in {None, self._name.text}:
            raise RefusedError(
                f"{self._what}: move {number} was made in registry {printable(str(move.registry))}, and this one is"
                f" {self._name.text}; it was copied here: do not use it. Where the registry itself moved, set"
                " ENGINEGATE_REGISTRY_NAME to its name"
            )
        if move.kind == "resign" and not self._stays(move):
            raise RefusedError(f"{self._what}: move {number} is a `resign` that goes elsewhere; do not use it")
        self._moves.append(SignedMove(move, signed.digest, signed.signature))

    def _stays(self, move: Move) -> bool:
        last = self._moves[-1].move if self._moves else None
        return last is not None and (last.engine_id, last.manifest, last.override) == (
            move.engine_id,
            move.manifest,
            move.override,
        )

    def finish(self) -> tuple[SignedMove, ...]:
        """Take the newest move for final, and hand out the history.

        Raises:
            RefusedError: there is no move, no trusted key signed the newest, it names no registry where it has to or is
                dated in the future, or the channel was rewound.
        """
        if not self._moves:
            raise RefusedError(f"{self._what} has lost its history; restore it from the bucket's versions or a backup")
        if self._name.is_required and self._moves[-1].move.registry is None:
            raise RefusedError(
                f"{self._what}: its newest move names no registry, and ENGINEGATE_REGISTRY_NAME is set;"
                " `enginegate resign` it"
            )
        self._moves[-1].signature.require_trusted(f"{self._what}: move {len(self._moves)}")
        self._require_past(self._moves[-1].move)
        self.require_seen()
        return tuple(self._moves)

    def _require_past(self, move: Move) -> None:
        if datetime.fromisoformat(move.when) - datetime.now(timezone.utc) > CLOCKS_APART:
            raise RefusedError(
                f"{self._what}: move {move.number} is dated {move.when}, which is in the future; find out who signed"
                " it, and see that this host's clock is right"
            )

    def require_seen(self) -> None:
        """Check that the move which was final before is there; also of a channel that has no object any more.

        Raises:
            RefusedError: the channel was rewound.
        """
        seen = self._seen
        if seen is not None and not holds_move(self._moves, seen.move.number, seen.digest):
            raise RefusedError(
                f"{self._what}: its history was rewound while this ran: move {seen.move.number} is no longer in it"
                f" ({len(self._moves)} moves); find out who did that"
            )


def holds_move(moves: Sequence[SignedMove], number: int, digest: str) -> bool:
    """Whether a history has this move at its place."""
    return number <= len(moves) and moves[number - 1].digest == digest
