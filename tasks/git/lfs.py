"""Files that git LFS keeps: the pointer in git, and the object in the repository's own store. No network.

The format is https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. A file of this form is a pointer wherever it
lies, whatever .gitattributes says.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_POINTER = 1023
"""Bytes: the format says that a pointer has fewer than 1024."""
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-\d-[^\n]*\n)*oid sha256:(?P<oid>[0-9a-f]{64})\n"
    rb"size (?P<size>\d{1,15})\n?"
)


@dataclass(frozen=True)
class Pointer:
    """What git holds in place of a file: the file's SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size_bytes: int


def read_pointer(content: bytes) -> Pointer | None:
    """The pointer that a file's content in git is; None where it is the file itself."""
    if len(content) > LONGEST_POINTER:
        return None
    match = _POINTER.fullmatch(content)
    return None if match is None else Pointer(match["oid"].decode(), int(match["size"]))


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
