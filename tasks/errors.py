"""The errors a user can meet; each class carries the exit code of the command that ends with it."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from validation.printing import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "VERDICT_CODES",
    "WORST_FIRST",
    "EnginegateError",
    "ExitCode",
    "InputError",
    "RefusedError",
    "StageError",
    "printable",
    "worst_of",
]


class ExitCode(IntEnum):
    """What a command ends with. README has the same table, with more words."""

    DONE = 0
    UNEXPECTED = 1
    BAD_INPUT = 2
    FAIL = 3
    INCONCLUSIVE = 4
    REFUSED = 5


VERDICT_CODES = {"pass": ExitCode.DONE, "fail": ExitCode.FAIL, "inconclusive": ExitCode.INCONCLUSIVE}
# An unexpected end may hide verdicts, so it comes first; then refusals, bad input, and the verdicts.
WORST_FIRST = (
    ExitCode.UNEXPECTED,
    ExitCode.REFUSED,
    ExitCode.BAD_INPUT,
    ExitCode.FAIL,
    ExitCode.INCONCLUSIVE,
    ExitCode.DONE,
)


def worst_of(codes: Iterable[int | None]) -> ExitCode:
    """The worst of some exit codes; `DONE` where there are none. Other numbers and None count for nothing."""
    found = set(codes)
    return next((code for code in WORST_FIRST if code in found), ExitCode.DONE)


class EnginegateError(Exception):
    """Base of all expected failures. The message says what happened, why, and what to do."""

    exit_code = ExitCode.UNEXPECTED


class InputError(EnginegateError):
    """What the user gave cannot be used: model.yaml, source, weights, data, policy or arguments."""

    exit_code = ExitCode.BAD_INPUT


class StageError(EnginegateError):
    """A stage could not make its result from good input (a converter or builder failed, a tool crashed)."""


class RefusedError(EnginegateError):
    """A digest, a signature, a compatibility rule or a write-once rule forbids what was asked."""

    exit_code = ExitCode.REFUSED
