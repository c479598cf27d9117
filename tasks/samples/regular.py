"""Tells files from pipes, sockets and devices, which a reader may wait for for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def is_special(path: Path) -> bool:
    """Whether a path, links followed, is there and neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def refuse_special(path: Path, name: str) -> None:
    """Raise InputError, which starts with `name`, for a pipe, a socket or a device."""
    if is_special(path):
        raise InputError(f"{name}: is a pipe, a socket or a device, and may never end; put a regular file there")
