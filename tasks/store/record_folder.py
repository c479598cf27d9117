"""Small JSON records in a folder, each read and written whole, and the locks of those who work on them."""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STATE = ("journal", "watch", "feedback", "rejected")
"""The kinds of records that no later run can make again; the artifact store held them until November 2026."""


class RecordFolder:
    """`records/<kind>/<key>.json`, `locks/`, and `scratch/` for what is not finished."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = ScratchSpace(root / "scratch")

    def _record(self, kind: str, key: str) -> Path:
        return self.root / "records" / kind / f"{key}.json"

    def read_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record, or None where there is none or it cannot be read: an unreadable record is no record."""
        try:
            record = json.loads(self._record(kind, key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def write_record(self, kind: str, key: str, record: Mapping[str, object]) -> None:
        """Keep a record, atomically, in place of any older one."""
        self._scratch.write(self._record(kind, key), json.dumps(record, indent=1, sort_keys=True).encode())

    def list_records(self, kind: str) -> tuple[str, ...]:
        """The keys of a kind that have a record, sorted."""
        return tuple(sorted(path.stem for path in (self.root / "records" / kind).glob("*.json")))

    def _lock(self, kind: str, key: str) -> Path:
        return self.root / "locks" / f"{kind}-{key}"

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold a key; the kernel frees it when this process dies."""
        path = self._lock(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def is_locked(self, kind: str, key: str) -> bool:
        """Whether a live process holds a key; a shared lock is tried, which others who only ask do not notice."""
        try:
            with self._lock(kind, key).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def open_state(root: Path, store: Path) -> RecordFolder:
    """The state in `root`; the first time, with what an older release left of it in the artifact store at `store`.

    The older records stay where they are: hosts that share a store each take their own copy.
    """
    records = root / "records"
    if not records.exists() and any((store / "records" / kind).exists() for kind in STATE):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "taking-over"), ScratchSpace(root / "scratch").folder() as folder:
            for kind in STATE:
                if (store / "records" / kind).exists():
                    shutil.copytree(store / "records" / kind, folder / "records" / kind)
            if not records.exists():  # another process may have been first
                (folder / "records").rename(records)
    return RecordFolder(root)
