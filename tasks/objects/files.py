"""Files that appear whole: copied with their SHA-256 checked on the way, and put in place by one system call."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tasks.errors import RefusedError, StageError
from tasks.store.digests import CHUNK_BYTES
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

# How much is written before the disk is asked to take it.
SYNC_BYTES = 64 << 20
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Tell a disk that fails as the one of `folder`, whatever is written there and wherever it comes from.

    Raises:
        StageError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
        remedy = "make room on its disk" if error.errno in FULL else "check the folder, its rights and its disk"
        raise StageError(f"{folder}: cannot be written{file}: {error.strerror or error}; {remedy}") from error


def chunks_of(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bytes of a file, `chunk_bytes` at a time."""
    with path.open("rb") as stream:
        while chunk := stream.read(chunk_bytes):
            yield chunk


def check_digest(what: str, found: str, digest: str) -> None:
    """Compare two digests, `sha256:…` each.

    Raises:
        RefusedError: they differ; the message starts with `what`.
    """
    if found != digest:
        raise RefusedError(f"{what}: should have digest {digest}, but has {found}; it was damaged or swapped")


def write_checked(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    digest: str,
    what: str,
    on_chunk: Callable[[int], None] = lambda _: None,
) -> None:
    """Write chunks to a new file and to the disk, and check their SHA-256.

    Args:
        path: the file, private to the caller.
        chunks: its bytes.
        digest: `sha256:…` that they should have.
        what: the object, in the error.
        on_chunk: told how many bytes are written so far.

    Raises:
        RefusedError: the bytes have another digest.
    """
    hasher, done, synced = hashlib.sha256(), 0, 0
    # What was written goes to the disk while more comes: at the end of 1 GB that takes half a second otherwise.
    with path.open("xb", buffering=0) as stream, ThreadPoolExecutor(1) as pool:
        syncing: Future[None] | None = None
        for chunk in chunks:
            hasher.update(chunk)
            _write_all(stream, chunk)
            done += len(chunk)
            on_chunk(done)
            if done - synced >= SYNC_BYTES and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()  # a disk tells of a failure once
                syncing, synced = pool.submit(os.fdatasync, stream.fileno()), done
        check_digest(what, f"sha256:{hasher.hexdigest()}", digest)
        if syncing is not None:
            syncing.result()
        os.fsync(stream.fileno())


def _write_all(stream: FileIO, chunk: bytes | memoryview) -> None:
    view = memoryview(chunk)
    while view:
        view = view[stream.write(view) :]


def check_chunks(
    chunks: Iterable[bytes | memoryview], digest: str, what: str, on_chunk: Callable[[int], None] = lambda _: None
) -> None:
    """As `write_checked`, and keep nothing.

    Raises:
        RefusedError: the bytes have another digest.
    """
    hasher, done = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        done += len(chunk)
        on_chunk(done)
    check_digest(what, f"sha256:{hasher.hexdigest()}", digest)


def write_new(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file in a private folder beside `path`, then rename it to `path`.

    The private folder of a killed process goes when the same file is written next. An OSError of `write` counts as one
    of the disk that it writes to: what it reads from, it explains itself.

    Raises:
        RefusedError: there is a `path` already.
        StageError: the disk fails or is full.
    """
    if os.path.lexists(path):
        raise RefusedError(f"{path}: exists already, and is not written over; remove it, or choose another place")
    root = path.parent / f".{path.name}.part"
    with writing_to(path.parent):
        try:
            with ScratchSpace(root).folder() as scratch:
                write(scratch / "file")
                (scratch / "file").rename(path)
        finally:
            with suppress(OSError):  # another process writes the same file
                root.rmdir()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, so that a file put there outlives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, and write each new name to the disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)
