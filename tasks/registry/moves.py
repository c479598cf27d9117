"""What a channel's history is made of: its moves, each a document that is signed and holds the digest of the last."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from tasks.declared import Digest
from tasks.errors import InputError
from tasks.records import LONGEST_REASON
from tasks.registry.chained import (
    PART_FILE,
    UNNAMED,
    Chained,
    EngineId,
    Form,
    RegistryName,
    SignedRecord,
    is_model_name,
    require_names,
)
from tasks.registry.layout import CHANNELS

__all__ = [
    "UNNAMED",
    "ChannelAddress",
    "ChannelName",
    "EngineId",
    "Move",
    "RegistryName",
    "SignedMove",
    "is_model_name",
]


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


@dataclass(frozen=True)
class ChannelAddress:
    """Which channel is meant: that of a model for a target.

    Raises:
        InputError: the model can have no such name, or there is no such target.
    """

    model: str
    target: str
    channel: ChannelName

    def __post_init__(self) -> None:
        require_names(self.model, self.target)

    def __str__(self) -> str:
        return f"{self.channel.value} of {self.model} for {self.target}"

    @property
    def form(self) -> Form[SignedMove]:
        """That of channels."""
        return _FORM

    @property
    def key(self) -> str:
        """`channels/<model>/<target>/<channel>.json`."""
        return f"{CHANNELS}{self.model}/{self.target}/{self.channel.value}.json"

    def part_key(self, digest: str) -> str:
        """`channels/<model>/<target>/<channel>/<SHA-256>.json`, of a part of a long history."""
        return f"{self.key.removesuffix('.json')}/{digest.removeprefix('sha256:')}.json"

    @property
    def before(self) -> ChannelAddress | None:
        """That of the step before; None for the first."""
        step = self.channel.before
        return None if step is None else ChannelAddress(self.model, self.target, step)

    @classmethod
    def all_of(cls, model: str, target: str) -> tuple[ChannelAddress, ...]:
        """Those of a model for a target, in the order of the steps."""
        return tuple(cls(model, target, name) for name in ChannelName)

    @classmethod
    def from_key(cls, key: str) -> ChannelAddress | None:
        """That of an object; None where it is no channel's."""
        try:
            model, target, file = key.removeprefix(CHANNELS).split("/")
            address = cls(model, target, ChannelName(file.removesuffix(".json")))
        except (ValueError, InputError):
            return None
        return address if address.key == key else None

    @classmethod
    def of_part(cls, key: str) -> ChannelAddress | None:
        """That of the channel of whose history an object is a part; None where it is none."""
        folder, _, file = key.rpartition("/")
        return cls.from_key(f"{folder}.json") if PART_FILE.fullmatch(file) else None


class Move(Chained):
    """One move of a channel: to which engine, by digest of its manifest, from which, why, by whom and when (UTC).

    `override` is the reason for breaking a rule of promotion, for ever in the history. One of kind `resign` goes
    nowhere: another key vouches for what is there.
    """

    schema_version: Literal[1] = 1
    model: str
    target: str
    channel: ChannelName
    kind: Literal["promote", "rollback", "resign"]
    engine_id: EngineId
    manifest: Digest
    before: EngineId | None
    reason: Annotated[str, Field(max_length=LONGEST_REASON)]
    override: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None

    @property
    def address(self) -> ChannelAddress:
        """The channel that it moved."""
        return ChannelAddress(self.model, self.target, self.channel)


class SignedMove(SignedRecord[Move]):
    """A move, the digest of its document, and who signed it."""

    @property
    def move(self) -> Move:
        """The move."""
        return self.record


def _find_fault(last: Move | None, move: Move) -> str | None:
    if move.kind != "resign":
        return None
    stays = last is not None and (last.engine_id, last.manifest, last.override) == (
        move.engine_id,
        move.manifest,
        move.override,
    )
    return None if stays else "is a `resign` that goes elsewhere"


_FORM = Form("channel", "move", Move, SignedMove, _find_fault, "enginegate history")
