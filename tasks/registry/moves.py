"""What a channel's history is made of: its moves, each a document that is signed and holds the digest of the last."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tasks.records import LONGEST_REASON
from tasks.specs import ENGINE_ID, Digest, Frozen

if TYPE_CHECKING:
    from tasks.registry.signing import Signature

EngineId = Annotated[str, Field(pattern=ENGINE_ID.pattern)]


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
