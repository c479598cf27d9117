"""What a signed history is made of: records that each hold the digest of the one before, and where they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from tasks.declared import Digest, Frozen, Name
from tasks.errors import InputError
from tasks.records import LONGEST_REASON
from tasks.specs import ENGINE_ID, TARGET, TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.registry.signing import Signature

EngineId = Annotated[str, Field(pattern=ENGINE_ID.pattern)]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
PART_FILE = re.compile(r"[0-9a-f]{64}\.json")
_NAME = TypeAdapter(Name)


class Chained(Frozen):
    """What every record of a history says.

    `number` counts from 1, and `previous` is the digest of the record before. `registry` is the name of the registry
    that it belongs to, and `when` the time (UTC) by the clock of the host that signed it.
    """

    number: Annotated[int, Field(ge=1)]
    previous: Digest | None
    who: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    registry: str | None = None
    when: Moment

    @property
    def address(self) -> object:
        """The history that it belongs to."""
        raise NotImplementedError


Record = TypeVar("Record", bound=Chained)
One = TypeVar("One", bound="SignedRecord[Any]")


@dataclass(frozen=True)
class SignedRecord(Generic[Record]):
    """A record, the digest of its document, and who signed it."""

    record: Record
    digest: str
    signature: Signature


@dataclass(frozen=True)
class Form(Generic[One]):
    """What tells one kind of history from another.

    A history is called `subject` and its address, a record of it `word`: the type of its envelopes too, and in the
    plural the key of its object. `find_fault` says what forbids a record after the one before (None: the first), as
    what follows `move 7`, and None where nothing does. `command` shows a history to people.
    """

    subject: str
    word: str
    record: type[Chained]
    signed: Callable[[Any, str, Signature], One]
    find_fault: Callable[[Any, Any], str | None]
    command: str

    @property
    def words(self) -> str:
        """`moves`: the key under which an object holds its records."""
        return f"{self.word}s"


class HistoryAddress(Protocol[One]):
    """Which history is meant. Its text follows the form's `subject` in messages."""

    @property
    def form(self) -> Form[One]:
        """What kind of history it is."""

    @property
    def key(self) -> str:
        """The object's key."""

    def part_key(self, digest: str) -> str:
        """The key of a part of a long history, of this digest."""


@dataclass(frozen=True)
class RegistryName:
    """What a registry is called in its records, so that a history copied to another registry is refused there.

    `text` is None where it has no name. A record without one, of an older release, is taken unless `is_required`.
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


def require_names(model: str, target: str) -> None:
    """Check the names of a model and of a target, as people give them.

    Raises:
        InputError: the model can have no such name, or there is no such target.
    """
    if not is_model_name(model):
        raise InputError(
            f"model {model!r}: is no model's name; write that of its model.yaml, like essay-scorer (see"
            " `enginegate engines`)"
        )
    if not TARGET.fullmatch(target):
        raise InputError(
            f"target {target!r}: is no target; choose from {', '.join(TARGETS)}, or a MIG slice like a100-mig-1g.5gb"
        )


def holds_record(records: Sequence[SignedRecord[Any]], number: int, digest: str) -> bool:
    """Whether a history has this record at its place."""
    return number <= len(records) and records[number - 1].digest == digest
