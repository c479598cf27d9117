"""What an object store does: S3's conditional writes, which a local folder keeps to as well.

Keys are relative paths of `[A-Za-z0-9._=@+-]` parts joined by `/`, none of which starts with a dot. An
object is there whole or not at all. No key is also the folder of another: S3 would take `a` and `a/b` side by side, a
folder refuses the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tasks.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

# A part that starts with a dot is refused: `.` and `..` leave the folder, and a local store keeps its own files in one.
PART = re.compile(r"[A-Za-z0-9_=@+-][A-Za-z0-9._=@+-]{0,254}")
# S3 takes 1024 bytes, the store's own prefix included.
MAX_CHARACTERS = 800
# What `read` holds in memory at most. Manifests and channels have kilobytes; whatever is larger is downloaded.
MAX_READ_BYTES = 16 << 20


class ChangedError(RefusedError):
    """An object is no longer the one that was read: somebody else moved it first."""


@dataclass(frozen=True)
class Versioned:
    """An object's bytes, and the tag that names this version of it.

    A tag has at most 2,000 characters and means something to the store that gave it alone. Two versions of the same
    bytes may have the same one. `modified` is when it was last written (UTC), by the store's clock; None: not known.
    """

    content: bytes
    tag: str
    modified: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """An object in a listing: its key, size in bytes, and when it was last written (UTC)."""

    key: str
    size_bytes: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key.

    Every method may raise:
        InputError: the key is none, or the settings are at fault: no credentials, no right, no such bucket.
        StageError: the store cannot be reached or goes on failing after bounded retries. A write may have happened
            then all the same, where every answer to it was lost and nor could the object be read afterwards.

    Messages name bucket or folder and the operation, never a credential.
    """

    @property
    def address(self) -> str:
        """What people call it: `s3://bucket/prefix`, or the folder's path."""

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet (`If-None-Match: *`); False where there is one, whatever it holds."""

    def upload(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> bool:
        """As `create`, from a file of any size, whose SHA-256 is checked against `digest` (`sha256:…`) on the way.

        A killed upload leaves nothing under `key`. `on_progress` gets bytes done and bytes in all, in this thread.

        S3 servers that ignore `If-None-Match` where a multipart upload is completed (radosgw 16 does) may let an
        upload that began before another one ended write over it: harmless where the key is named by its content, as
        the bytes are the same. Use `create` for anything else.

        Raises:
            RefusedError: the file has another digest; nothing is written. It is not read where there is an object.
        """

    def read(self, key: str) -> Versioned | None:
        """An object, or None where there is none. For small objects: all of it is held in memory.

        Raises:
            RefusedError: it has more than 16 MiB.
        """

    def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """Write an object over the version `tag` (`If-Match`), or, with None, where there is none; return its tag.

        A write whose answer was lost is looked up, so that a win is never told as a loss.

        Raises:
            ChangedError: the object is another version by now, or there is one already, or none any more.
        """

    def download(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Write an object to the new file `path`, which appears whole, and only if its SHA-256 is `digest`.

        `on_progress` gets bytes done and bytes in all, in this thread.

        Raises:
            RefusedError: the object is missing or has another digest, or `path` exists; nothing is written.
        """

    def check(self, key: str, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Read an object of any size and check its SHA-256, as `download` does, and keep nothing.

        Raises:
            RefusedError: the object is missing or has another digest.
        """

    def size(self, key: str) -> int | None:
        """Size in bytes of an object; None where there is none."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose keys start with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing where there is none."""

    def now(self) -> datetime:
        """The time (UTC, to the second) by the clock that dates the objects, which may not be this host's."""


def check_key(key: str) -> str:
    """Return `key` if it is one.

    Raises:
        InputError: it is no relative path of parts of `[A-Za-z0-9._=@+-]` that start with no dot and have 1 to 255
            characters, or it has more than 800 characters.
    """
    if len(key) > MAX_CHARACTERS:
        raise InputError(f"key {key[:40]!r}…: has {len(key)} characters, and {MAX_CHARACTERS} is the most; shorten it")
    if not is_key(key):
        raise InputError(
            f"key {key!r}: is no relative path of parts of [A-Za-z0-9._=@+-], joined by /, that start with no dot and"
            " have at most 255 characters; correct the name that it was made from"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if keys can start with it; the empty one starts all.

    Raises:
        InputError: no key starts so.
    """
    if prefix:
        check_key(prefix + "x" if prefix.endswith("/") else prefix)
    return prefix


def is_key(key: str) -> bool:
    """Whether an object of this name belongs to the store; other tools may have put more into its bucket or folder."""
    return len(key) <= MAX_CHARACTERS and all(PART.fullmatch(part) for part in key.split("/"))
