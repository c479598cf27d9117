"""Entries for test_start: each imports what a model's code would, and what the product would after it."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import TYPE_CHECKING, Any

from tests.tasks.child_entries import Answer, Ask

if TYPE_CHECKING:
    from collections.abc import Callable


def import_from(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Put a folder in front of the path, as the model's is; answer with `OWNER` of a module of a name there."""
    folder, name = request["text"].split()
    sys.path.insert(0, folder)
    return Answer(text=importlib.import_module(name).OWNER)


def import_late(request: dict[str, Any], progress: Callable[[int, int], None]) -> Answer:
    """Import the product's modules, in every form, after a model's of the same names."""
    owners = [import_from({"text": f"{request['text']} {name}"}, progress).text for name in ("tasks", "validation")]
    import tasks.samples.npz  # noqa: PLC0415 - late is the point
    import validation.units as late  # noqa: PLC0415 - as above
    from tasks.store import digests  # noqa: PLC0415 - as above

    return Answer(text=" ".join([*owners, *(module.__file__ or "" for module in (tasks.samples.npz, late, digests))]))


def pickle_twice(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Answer with the request, after it was pickled and read again."""
    found: Answer = pickle.loads(pickle.dumps(Answer(text=request["text"])))  # noqa: S301 - from the line itself
    assert type(found) is Answer
    assert isinstance(importlib.import_module(Ask.__module__).Ask(), Ask)
    return found
