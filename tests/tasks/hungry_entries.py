"""Entries for test_child: each wants more memory than it may have, or tells what it may have."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tests.tasks.child_entries import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

AT_IMPORT = resource.getrlimit(resource.RLIMIT_DATA)[0]


def take(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Take as many megabytes as the request says; answer with how many."""
    return Answer(text=str(len(bytearray(int(request["text"]) * 10**6)) // 10**6))


def take_and_blame_the_user(request: dict[str, Any], progress: Callable[[int, int], None]) -> Answer:
    """Take memory as code of the user's does, whose errors are explained."""
    try:
        return take(request, progress)
    except MemoryError as error:
        raise InputError(f"model.py raised {type(error).__name__}: {error}; mend the module") from None


def die_of_bad_alloc(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """End as a C++ library does that gets no memory."""
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    sys.stderr.flush()
    os.abort()


def limit_at_import(_request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer with the limit, in bytes, that held when this module was imported."""
    return Answer(text=str(AT_IMPORT))
