"""A place for what is not finished yet, that cleans up after processes that were killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tasks.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator


_LOCK = re.compile(r"[0-9a-f]{32}\.lock")


def open_no_link(path: str, flags: int) -> int:
    """An opener for `open` that follows no link and waits for no pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class ScratchSpace:
    """Private folders below `root`, each held by a lock of the process that uses it.

    The kernel frees the lock when that process ends, however it ends. A folder whose lock is free is rubbish, and
    whoever opens the space next removes it. Nothing else is touched.

    Raises:
        RefusedError: `root` is a link, so that what is removed would lie elsewhere.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        if root.is_symlink():
            raise RefusedError(
                f"{root} is a link, and unfinished files are removed there; put a folder in its place, or remove it"
            )
        self._sweep()

    def _sweep(self) -> None:
        for path in self._root.glob("*.lock"):
            if not _LOCK.fullmatch(path.name):
                continue
            try:
                with open(path, "rb", opener=open_no_link) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink(missing_ok=True)
            except OSError:  # in use, swept by another process, or another user's
                continue

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, removed on leaving it."""
        lock, folder = self._claim()
        with lock:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)

    def _claim(self) -> tuple[IO[bytes], Path]:
        self._root.mkdir(parents=True, exist_ok=True)
        while True:
            path = self._root / f"{uuid.uuid4().hex}.lock"
            lock = path.open("xb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # else another process swept it between its creation and its lock
                folder = path.with_suffix("")
                folder.mkdir()
                return lock, folder
            lock.close()

    def write(self, path: Path, data: bytes, *, replace: bool = True) -> None:
        """Write `data` to `path`, of the same file system, so that nobody ever sees a part of it.

        Raises:
            FileExistsError: `path` exists and `replace` is false; of two writers at once exactly one succeeds.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.folder() as folder:
            staged = folder / "file"
            with staged.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                staged.replace(path)
            else:
                path.hardlink_to(staged)
