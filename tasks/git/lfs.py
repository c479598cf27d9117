"""Objects of git LFS in a repository's own store. No network."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.samples.lfs_pointer import Pointer


def copy_object(store: Path, pointer: Pointer, path: str, destination: Path) -> None:
    """Copy an object of `store`, a repository's `lfs/objects`, checked while nobody sees it.

    Raises:
        InputError: the object is not there.
        RefusedError: its bytes are not those of the pointer.
    """
    source = store / pointer.sha256[:2] / pointer.sha256[2:4] / pointer.sha256
    if source.is_symlink() or not source.is_file():
        raise InputError(
            f"{path}: its content is in git LFS and not in this repository; run `git lfs fetch` for the commit there"
        )
    shutil.copyfile(source, destination)
    if digest_file(destination) != (f"sha256:{pointer.sha256}", pointer.size_bytes):
        destination.unlink()
        raise RefusedError(
            f"{path}: its object in git LFS is damaged: it is not the {pointer.size_bytes} bytes of"
            f" sha256:{pointer.sha256}; remove {source.name} from lfs/objects and run `git lfs fetch`"
        )
