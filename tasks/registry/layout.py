"""Where things lie in a registry, in a folder as in S3."""

from __future__ import annotations

from tasks.errors import InputError
from tasks.records import Cell

BLOBS, ENGINES, CHANNELS = "blobs/", "engines/", "channels/"


def blob_key(digest: str) -> str:
    """`blobs/sha256/ab/cdef…` of a file's digest, `sha256:abcdef…`."""
    algorithm, _, value = digest.partition(":")
    return f"{BLOBS}{algorithm}/{value[:2]}/{value[2:]}"


def manifest_key(cell: Cell) -> str:
    """`engines/<model>/<version>/<target>/<precision>/manifest.json`; see `Cell.place` for other runtimes."""
    return f"{ENGINES}{cell.model}/{cell.version}/{cell.place}/{cell.precision.value}/manifest.json"


def cell_at(key: str) -> Cell | None:
    """The cell whose manifest lies there; None where no publisher puts one."""
    try:
        model, version, place, precision, _ = key.removeprefix(ENGINES).split("/")
        cell = Cell.parse(f"{model}-{place}-{precision}@{version}")
    except (ValueError, InputError):
        return None
    return cell if manifest_key(cell) == key else None
