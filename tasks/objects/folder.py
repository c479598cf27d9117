"""Objects in a local folder: one file each, with the conditional writes of S3.

Write-once is `link`, which fails where there is a file. A compare-and-swap reads and renames under a lock of the key,
which the kernel frees when its holder dies. `.scratch/` and `.locks/` hold the store's own files: no key starts so.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tasks.errors import RefusedError, StageError
from tasks.objects.files import check_chunks, chunks_of, make_folders, sync_folder, write_checked, write_new
from tasks.objects.interface import MAX_READ_BYTES, ChangedError, Entry, Versioned, check_key, check_prefix, is_key
from tasks.store.blobs import READ_ONLY
from tasks.store.scratch import ScratchSpace, open_no_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A lock is held for one read and one rename; whoever holds it for longer hangs.
LOCK_S = 60


class LocalObjects:
    """The objects below `root`; see the interface. A tag is the SHA-256 of the content."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._scratch = ScratchSpace(self.root / ".scratch")

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.root)

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; see the interface."""
        return self._create(key, lambda staged: _write(staged, content))

    def upload(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> bool:
        """Copy a file in, never linked: what happens to it later must not reach the store. See the interface."""

        def copy(staged: Path) -> None:
            total = path.stat().st_size
            write_checked(staged, chunks_of(path), digest, str(path), lambda done: on_progress(done, total))

        return self._create(key, copy)

    def _create(self, key: str, write: Callable[[Path], None]) -> bool:
        target = self._path(key)
        with self._explained("create", key), self._scratch.folder() as scratch:
            if target.is_file():
                return False
            write(scratch / "file")
            (scratch / "file").chmod(READ_ONLY)
            return _place(scratch / "file", target, key)

    def read(self, key: str) -> Versioned | None:
        """Read an object; see the interface."""
        target = self._path(key)
        with self._explained("read", key):
            return _read(target)

    def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """Move an object from one version to the next; see the interface."""
        target = self._path(key)
        if tag is None:
            if not self.create(key, content):
                raise self._changed(key)
            return _tag(content)
        with self._explained("replace", key), self._scratch.folder() as scratch:
            _write(scratch / "file", content)
            (scratch / "file").chmod(READ_ONLY)
            with self._locked(key):
                found = _read(target)
                if found is None or found.tag != tag:
                    raise self._changed(key)
                (scratch / "file").replace(target)
            sync_folder(target.parent)
        return _tag(content)

    def _changed(self, key: str) -> ChangedError:
        return ChangedError(f"{self.root / key}: somebody else wrote or removed it meanwhile; look at it again")

    def download(self, key: str, path: Path, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Copy an object out; see the interface."""
        source = self._path(key)
        with self._explained("download", key):
            if not source.is_file():
                raise RefusedError(f"{source}: is missing from {self.address}")
            total = source.stat().st_size

        def copy(staged: Path) -> None:
            chunks = self._chunks(key, source)
            write_checked(staged, chunks, digest, str(source), lambda done: on_progress(done, total))

        write_new(path, copy)

    def _chunks(self, key: str, source: Path) -> Iterator[bytes]:
        """The bytes of an object; what fails here is this store's fault."""
        with self._explained("download", key):
            yield from chunks_of(source)

    def check(self, key: str, digest: str, on_progress: Callable[[int, int], None]) -> None:
        """Read an object and check its digest; see the interface."""
        source = self._path(key)
        with self._explained("check", key):
            if not source.is_file():
                raise RefusedError(f"{source}: is missing from {self.address}")
            total = source.stat().st_size
            check_chunks(chunks_of(source), digest, str(source), lambda done: on_progress(done, total))

    def size(self, key: str) -> int | None:
        """Size in bytes, or None; see the interface."""
        target = self._path(key)
        with self._explained("look at", key):
            return target.stat().st_size if target.is_file() else None

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose keys start with `prefix`, as they were when the listing began; see the interface."""
        folder = self._path(check_prefix(prefix) + "x").parent  # "x": the prefix may end with the folder's slash
        with self._explained("list", prefix):
            found = sorted(_entries_below(folder, self.root), key=lambda entry: entry.key)
        yield from (entry for entry in found if entry.key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Remove an object; see the interface."""
        target = self._path(key)
        with self._explained("delete", key), self._locked(key):
            if target.is_file():
                target.unlink(missing_ok=True)
                sync_folder(target.parent)

    def now(self) -> datetime:
        """The file system's time: a file server may have a clock of its own. See the interface."""
        with self._explained("write to", ""), self._scratch.folder() as scratch:
            (scratch / "now").touch()
            return datetime.fromtimestamp((scratch / "now").stat().st_mtime, timezone.utc)

    def _path(self, key: str) -> Path:
        """The file of a key, which no link leads out of the root.

        Raises:
            RefusedError: the file or a folder above it is a link.
        """
        target = self.root / check_key(key)
        inside = self.root.resolve() / Path(key).parent
        if target.is_symlink() or target.parent.resolve() != inside:
            raise RefusedError(f"{target}: is a link, or lies behind one, and the store follows none; remove the link")
        return target

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        path = self.root / ".locks" / hashlib.sha256(key.encode()).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=LOCK_S):
            yield

    @contextmanager
    def _explained(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise StageError(
                f"{self.root}: cannot {operation} {key!r}: {reason}; check the folder, its rights and free space"
            ) from error


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _place(staged: Path, target: Path, key: str) -> bool:
    """Link a file to where there is none; False where there is one."""
    try:
        make_folders(target.parent)
    except (FileExistsError, NotADirectoryError):
        raise RefusedError(f"key {key!r}: a part of it is an object already, which cannot hold others") from None
    try:
        target.hardlink_to(staged)
    except FileExistsError:
        if target.is_dir():
            raise RefusedError(f"key {key!r}: objects lie below it, so it cannot be one itself") from None
        return False
    sync_folder(target.parent)
    return True


def _read(target: Path) -> Versioned | None:
    if os.path.lexists(target) and not target.is_file() and not target.is_symlink():
        return None  # a folder; or a pipe, which nobody may ever write to
    try:
        with open(target, "rb", opener=open_no_link) as stream:
            content = stream.read(MAX_READ_BYTES + 1)
            written = os.fstat(stream.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > MAX_READ_BYTES:
        raise RefusedError(f"{target}: has more than {MAX_READ_BYTES >> 20} MiB, too much to be read; download it")
    return Versioned(content, _tag(content), datetime.fromtimestamp(written, timezone.utc))


def _entries_below(folder: Path, root: Path) -> Iterator[Entry]:
    for path in folder.rglob("*"):
        key = path.relative_to(root).as_posix()
        try:
            found = path.lstat()
        except FileNotFoundError:  # removed meanwhile
            continue
        if stat.S_ISREG(found.st_mode) and is_key(key):
            yield Entry(key, found.st_size, datetime.fromtimestamp(found.st_mtime, timezone.utc))
