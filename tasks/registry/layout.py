"""Where things lie in a registry, in a folder as in S3."""

from __future__ import annotations

import re

from tasks.errors import InputError
from tasks.records import Cell

_RESIGNED = re.compile(r"resigned-[0-9a-f]{16}\.json")
BLOBS, ENGINES, CHANNELS, ROLLOUTS = "blobs/", "engines/", "channels/", "rollouts/"
# Where conditional writes are tried (`tasks.registry.conditions`): a key that those who write may write, and of no
# channel, since no model is called so.
PROBE = f"{CHANNELS}=conditions/any/candidate.json"


def blob_key(digest: str) -> str:
    """`blobs/sha256/ab/cdef…` of a file's digest, `sha256:abcdef…`."""
    algorithm, _, value = digest.partition(":")
    return f"{BLOBS}{algorithm}/{value[:2]}/{value[2:]}"


def manifest_key(cell: Cell) -> str:
    """`engines/<model>/<version>/<target>/<precision>/manifest.json`; see `Cell.place` for other runtimes."""
    return f"{ENGINES}{cell.model}/{cell.version}/{cell.place}/{cell.precision.value}/manifest.json"


def resigned_key(cell: Cell, keyid: str) -> str:
    """`engines/…/resigned-<key id>.json`: the manifest once more, in an envelope that a later key signed."""
    return f"{resigned_keys(cell)}{keyid[:16]}.json"


def resigned_keys(cell: Cell) -> str:
    """What the keys of all such envelopes of an engine start with."""
    return f"{manifest_key(cell).removesuffix('manifest.json')}resigned-"


def cell_at(key: str) -> Cell | None:
    """The cell whose manifest lies there; None where no publisher puts one."""
    try:
        model, version, place, precision, _ = key.removeprefix(ENGINES).split("/")
        cell = Cell.parse(f"{model}-{place}-{precision}@{version}")
    except (ValueError, InputError):
        return None
    return cell if manifest_key(cell) == key else None


def is_resigned(key: str) -> bool:
    """Whether an object is such an envelope of an engine."""
    folder, _, name = key.rpartition("/")
    return _RESIGNED.fullmatch(name) is not None and cell_at(f"{folder}/manifest.json") is not None
