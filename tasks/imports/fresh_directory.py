"""The new folder that an import writes: whole under its name, or not at all, whatever ends the process."""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def fresh_directory(into: Path) -> Iterator[Path]:
    """A folder that is called `into` when all went well, and is removed otherwise.

    What a process that was killed left beside it, hidden, is removed by the next import of that name.

    Raises:
        InputError: something is called so already, now or when all is done.
    """
    refuse_existing(into)
    target = into.resolve()
    root = target.parent / f".{target.name}.importing"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ScratchSpace(root).folder() as scratch:
            folder = scratch / target.name
            folder.mkdir()
            yield folder
            refuse_existing(into)
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                refuse_existing(into)
    finally:
        with suppress(OSError):  # another import of that name is at work
            root.rmdir()


def refuse_existing(into: Path) -> None:
    """Raise InputError where a file, folder or link is called so."""
    if into.exists() or into.is_symlink():
        raise InputError(f"{into}: is there already; name another folder with --into, or remove it")
