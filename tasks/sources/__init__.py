"""Where models come from: one module a kind of source, and their table. docs/sources.md says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.sources.python_callable import PythonCallable

if TYPE_CHECKING:
    from tasks.sources.interface import Source

SOURCES: tuple[Source, ...] = (PythonCallable(),)


def source_of(source: str) -> Source:
    """The kind of source that model.yaml's `source` is of.

    Raises:
        InputError: it is of none.
    """
    for kind in SOURCES:
        if kind.takes(source):
            return kind
    raise InputError(f"model.yaml: source: {source!r} is of no known kind; write file.py:callable")
