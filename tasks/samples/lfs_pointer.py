"""Pointers of git LFS: what git holds, and a clone without `git lfs pull` has, in place of a file.

The format is https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. A file of this form is a pointer wherever it
lies, whatever .gitattributes says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError

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


def refuse_pointer(path: Path, name: str) -> None:
    """Raise InputError, which starts with `name`, where a file is such a pointer."""
    if not path.is_file() or path.stat().st_size > LONGEST_POINTER:
        return
    pointer = read_pointer(path.read_bytes())
    if pointer is not None:
        raise InputError(
            f"{name}: is a pointer of git LFS, and its {pointer.size_bytes:,} bytes are not here; run `git lfs pull`"
        )
