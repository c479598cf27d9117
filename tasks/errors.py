"""The errors a user can meet; each class carries the exit code of the command that ends with it."""


class EnginegateError(Exception):
    """Base of all expected failures. The message says what happened, why, and what to do."""

    exit_code = 1


class InputError(EnginegateError):
    """What the user gave cannot be used: model.yaml, source, weights, data, policy or arguments."""

    exit_code = 2


class StageError(EnginegateError):
    """A stage could not make its result from good input (a converter or builder failed, a tool crashed)."""


class RefusedError(EnginegateError):
    """A digest, a signature, a compatibility rule or a write-once rule forbids what was asked."""

    exit_code = 5


def printable(text: str) -> str:
    """A text that somebody else wrote, in one line, without what steers a terminal or turns its letters around."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
