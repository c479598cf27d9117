"""Objects in memory, with the conditional writes of S3: for tests of the rules that rest on them.

It lives as long as its process, whose threads share it. A process that is forked has a copy of its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING

from tasks.errors import RefusedError, StageError
from tasks.objects.files import check_chunks, write_checked, write_new
from tasks.objects.interface import MAX_READ_BYTES, ChangedError, Entry, Versioned, check_key, check_prefix
from tasks.store.digests import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class _Stored:
    content: bytes
    tag: str
    modified: datetime


class MemoryObjects:
    """The objects of a dictionary; see the interface. A tag is the number of the write."""

    def __init__(self) -> None:
        self._objects: dict[str, _Stored] = {}
        self._lock, self._writes = Lock(), count(1)

    @property
    def address(self) -> str:
        """`memory`."""
        return "memory"

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; see the interface."""
        return self._write(key, content, None) is not None

    def upload(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> bool:
        """Take a file in; see the interface."""
        if self.size(key) is not None:
            return False
        with _explained("create", key):
            content = path.read_bytes()
        check_chunks(_chunks(content), digest, str(path), lambda done: on_progress(done, len(content)))
        return self.create(key, content)

    def read(self, key: str) -> Versioned | None:
        """Read an object; see the interface."""
        found = self._objects.get(check_key(key))
        if found is None:
            return None
        if len(found.content) > MAX_READ_BYTES:
            raise RefusedError(f"{key}: has more than {MAX_READ_BYTES >> 20} MiB, too much to be read; download it")
        return Versioned(found.content, found.tag, found.modified)

    def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """Move an object from one version to the next; see the interface."""
        written = self._write(key, content, tag)
        if written is None:
            raise ChangedError(f"{key}: somebody else wrote or removed it meanwhile; look at it again")
        return written

    def _write(self, key: str, content: bytes, tag: str | None) -> str | None:
        """Write over the version `tag`, or where there is none; return the new tag, None where that does not hold."""
        folders = check_key(key).split("/")[:-1]
        with self._lock:
            found = self._objects.get(key)
            if tag != (None if found is None else found.tag):
                return None
            if found is None and any("/".join(folders[:end]) in self._objects for end in range(1, len(folders) + 1)):
                raise RefusedError(f"key {key!r}: a part of it is an object already, which cannot hold others")
            if found is None and any(other.startswith(f"{key}/") for other in self._objects):
                raise RefusedError(f"key {key!r}: objects lie below it, so it cannot be one itself")
            stored = _Stored(bytes(content), str(next(self._writes)), datetime.now(timezone.utc))
            self._objects[key] = stored
        return stored.tag

    def download(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Write an object to a file; see the interface."""
        content = self._content(key)

        def copy(staged: Path) -> None:
            write_checked(staged, _chunks(content), digest, key, lambda done: on_progress(done, len(content)))

        with _explained("download", key):
            write_new(path, copy)

    def check(self, key: str, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Check the digest of an object; see the interface."""
        content = self._content(key)
        check_chunks(_chunks(content), digest, key, lambda done: on_progress(done, len(content)))

    def _content(self, key: str) -> bytes:
        found = self._objects.get(check_key(key))
        if found is None:
            raise RefusedError(f"{key}: is missing from {self.address}")
        return found.content

    def size(self, key: str) -> int | None:
        """Size in bytes, or None; see the interface."""
        found = self._objects.get(check_key(key))
        return None if found is None else len(found.content)

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose keys start with `prefix`, as they were when the listing began; see the interface."""
        check_prefix(prefix)
        with self._lock:
            found = sorted(item for item in self._objects.items() if item[0].startswith(prefix))
        yield from (Entry(key, len(stored.content), stored.modified) for key, stored in found)

    def delete(self, key: str) -> None:
        """Remove an object; see the interface."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def now(self) -> datetime:
        """This host's time; see the interface."""
        return datetime.now(timezone.utc)


@contextmanager
def _explained(operation: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StageError(f"memory: cannot {operation} {key!r}: {reason}; check the file's folder and disk") from error


def _chunks(content: bytes) -> Iterator[memoryview]:
    view = memoryview(content)
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))
