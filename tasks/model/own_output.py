"""Tells which files this command itself writes into, as with `convert . > log`: they are no part of a model."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OUTPUT, _ERRORS = 1, 2


def is_own_output(path: Path) -> bool:
    """Whether standard output or standard error goes into the file; its name says nothing, so its inode is asked.

    A `.gitignore` is not asked: weights and vocabularies that DVC keeps are ignored too, and the module reads them.
    """
    found = path.stat()
    return stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) in _own_outputs()


def _own_outputs() -> set[tuple[int, int]]:
    outputs = set()
    for descriptor in (_OUTPUT, _ERRORS):
        try:
            found = os.fstat(descriptor)
        except OSError:  # closed, as under a daemon
            continue
        outputs.add((found.st_dev, found.st_ino))
    return outputs
