"""One thing that was looked at before a conversion, and how it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tasks.errors import ExitCode, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.errors import EnginegateError

# How each mistake begins in an error that lists several: with a file or a field. Other lines belong to the one before.
_BEGINNING = re.compile(r"[\w./-]+( [\w./-]+)?: ")


class Level(str, Enum):
    """How a thing stands: as it should, such that it spoils the result, or such that no conversion is begun."""

    GOOD = "good"
    WARNING = "warning"
    STOP = "stop"


@dataclass(frozen=True)
class Remark:
    """A subject in a word, how it stands, and the sentence; `code` is what a command ends with where it is a stop."""

    subject: str
    level: Level
    text: str
    code: ExitCode = ExitCode.BAD_INPUT


def good(subject: str, text: str) -> Remark:
    """A thing that is as it should be."""
    return Remark(subject, Level.GOOD, text)


def warning(subject: str, text: str) -> Remark:
    """A thing that does not stop a conversion, and spoils it."""
    return Remark(subject, Level.WARNING, text)


def stops_of(subject: str, error: EnginegateError) -> tuple[Remark, ...]:
    """A stop for each of the mistakes that an error lists."""
    texts = list(_mistakes(str(error))) if isinstance(error, InputError) else [str(error)]
    return tuple(Remark(subject, Level.STOP, text, error.exit_code) for text in texts)


def _mistakes(message: str) -> Iterator[str]:
    found: list[str] = []
    for line in message.splitlines():
        if found and _BEGINNING.match(line):
            yield "\n".join(found)
            found = []
        found.append(line)
    yield "\n".join(found)
