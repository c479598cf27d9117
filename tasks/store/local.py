"""The artifact store in a local folder."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tasks.errors import RefusedError
from tasks.records import Artifact
from tasks.store.blobs import BlobFolder
from tasks.store.digests import artifact_digest
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path


class LocalStore:
    """`blobs/`, `records/<stage>/<key>.json`, `locks/`, and `scratch/` for what is not finished."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = BlobFolder(root / "blobs")
        self._scratch = ScratchSpace(root / "scratch")

    def scratch(self) -> AbstractContextManager[Path]:
        """A private folder under `scratch/`."""
        return self._scratch.folder()

    def put(self, folder: Path) -> Artifact:
        """Move every regular file below `folder`, a part of `scratch()`, into the store."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        files = tuple(self._blobs.take(path, path.relative_to(folder).as_posix()) for path in paths)
        return Artifact(digest=artifact_digest(files), files=files)

    def fetch(self, artifact: Artifact, destination: Path) -> Path:
        """Hard links (copies across file systems) into `destination`; see the interface.

        A damaged file is removed, so that the next run remakes it.
        """
        try:
            return self._blobs.lay(artifact, destination)
        except RefusedError as error:
            for file in artifact.files:
                if self._blobs.check(file) is not None:
                    self._blobs.path(file.digest).unlink(missing_ok=True)
            raise RefusedError(f"artifact store: {error}; run the conversion again to remake it") from None

    def contains(self, artifact: Artifact) -> bool:
        """Whether the list of files is the artifact's, and every blob is there with its size."""
        listed = artifact_digest(artifact.files) == artifact.digest
        return listed and all(self._blobs.holds(file) for file in artifact.files)

    def _record(self, stage: str, key: str) -> Path:
        return self.root / "records" / stage / f"{key}.json"

    def read_record(self, stage: str, key: str) -> dict[str, Any] | None:
        """The record, or None where there is none or it cannot be read: an unreadable record is no record."""
        try:
            record = json.loads(self._record(stage, key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def write_record(self, stage: str, key: str, record: Mapping[str, object]) -> None:
        """Keep a record; written last, so it never points at an artifact that is not there."""
        self._scratch.write(self._record(stage, key), json.dumps(record, indent=1, sort_keys=True).encode())

    def list_records(self, stage: str) -> tuple[str, ...]:
        """The names of the files in `records/<stage>/`."""
        return tuple(sorted(path.stem for path in (self.root / "records" / stage).glob("*.json")))

    def _lock(self, stage: str, key: str) -> Path:
        return self.root / "locks" / f"{stage}-{key}"

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """A lock of the kernel's on `locks/<stage>-<key>`."""
        path = self._lock(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def is_locked(self, stage: str, key: str) -> bool:
        """Whether the kernel's lock is taken; a shared one is tried, which nobody else who only asks notices."""
        try:
            with self._lock(stage, key).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False
