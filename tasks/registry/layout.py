"""Where things lie in a registry, in a folder as in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.records import Cell

BLOBS, ENGINES, CHANNELS = "blobs/", "engines/", "channels/"


def blob_key(digest: str) -> str:
    """`blobs/sha256/ab/cdef…` of a file's digest, `sha256:abcdef…`."""
    algorithm, _, value = digest.partition(":")
    return f"{BLOBS}{algorithm}/{value[:2]}/{value[2:]}"


def manifest_key(cell: Cell) -> str:
    """`engines/<model>/<version>/<target>/<precision>/manifest.json`."""
    return f"{ENGINES}{cell.model}/{cell.version}/{cell.target}/{cell.precision.value}/manifest.json"
