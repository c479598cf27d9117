"""What a channel's history is made of: its moves, each a document that is signed and holds the digest of the last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tasks.declared import Digest, Frozen, Name
from tasks.errors import InputError
from tasks.records import LONGEST_REASON
from tasks.registry.layout import CHANNELS
from tasks.specs import ENGINE_ID, TARGET, TARGETS

if TYPE_CHECKING:
    from tasks.registry.signing import Signature

EngineId = Annotated[str, Field(pattern=ENGINE_ID.pattern)]
_NAME = TypeAdapter(Name)
_PART_FILE = re.compile(r"[0-9a-f]{64}\.json")


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
        if not is_model_name(self.model):
            raise InputError(
                f"model {self.model!r}: is no model's name; write that of its model.yaml, like essay-scorer (see"
                " `enginegate engines`)"
            )
        if not TARGET.fullmatch(self.target):
            raise InputError(
                f"target {self.target!r}: is no target; choose from {', '.join(TARGETS)}, or a MIG slice like"
                " a100-mig-1g.5gb"
            )

    def __str__(self) -> str:
        return f"{self.channel.value} of {self.model} for {self.target}"

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
        return cls.from_key(f"{folder}.json") if _PART_FILE.fullmatch(file) else None


@dataclass(frozen=True)
class RegistryName:
    """What a registry is called in its moves, so that a channel copied to another registry is refused there.

    `text` is None where it has no name. A move without one, of an older release, is taken unless `is_required`.
    """

    text: str | None = None
    is_required: bool = False


UNNAMED = RegistryName()


def is_model_name(text: str) -> bool:
    """Whether a model may be called so."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


class Move(Frozen):
    """One move of a channel: to which engine, by digest of its manifest, from which, why, by whom and when (UTC).

    `number` counts from 1, and `previous` is the digest of the move before. `override` is the reason for breaking a
    rule of promotion, for ever in the history. `registry` is the name of the registry that it belongs to. One of
    kind `resign` goes nowhere: another key vouches for what is there.
    """

    schema_version: Literal[1] = 1
    model: str
    target: str
    channel: ChannelName
    number: Annotated[int, Field(ge=1)]
    previous: Digest | None
    kind: Literal["promote", "rollback", "resign"]
    engine_id: EngineId
    manifest: Digest
    before: EngineId | None
    reason: Annotated[str, Field(max_length=LONGEST_REASON)]
    override: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None
    who: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    registry: str | None = None
    when: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]

    @property
    def address(self) -> ChannelAddress:
        """The channel that it moved."""
        return ChannelAddress(self.model, self.target, self.channel)


@dataclass(frozen=True)
class SignedMove:
    """A move, the digest of its document, and who signed it."""

    move: Move
    digest: str
    signature: Signature
