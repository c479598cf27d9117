"""The artifact store in a local folder: blobs named by digest, hard-linked in and out."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock

from tasks.digests import artifact_digest, digest_file
from tasks.errors import RefusedError
from tasks.specs import Artifact, ArtifactFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READ_ONLY = 0o444


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


class LocalStore:
    """`blobs/sha256/ab/…`, `records/<stage>/<key>.json`, `locks/`, and `scratch/` for what is not finished.

    Everything unfinished lives under `scratch/`, in a folder that its process holds a lock on. A folder whose lock
    is free belonged to a process that died: opening the store removes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = root / "scratch"
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        for lock_path in self._scratch.glob("*.lock"):
            with lock_path.open("r+b") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder under `scratch/`; see the class."""
        lock, folder = self._claim_scratch()
        with lock:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)

    def _claim_scratch(self) -> tuple[IO[bytes], Path]:
        while True:
            path = self._scratch / f"{uuid.uuid4().hex}.lock"
            lock = path.open("xb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # else another process swept it between its creation and its lock
                folder = path.with_suffix("")
                folder.mkdir()
                return lock, folder
            lock.close()

    def _blob(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self.root / "blobs" / algorithm / value[:2] / value[2:]

    def put(self, folder: Path) -> Artifact:
        """Move every regular file below `folder`, a part of `scratch()`, into the store."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            digest, size = digest_file(path)
            self._keep(path, digest)
            files.append(ArtifactFile(path=path.relative_to(folder).as_posix(), digest=digest, size_bytes=size))
        return Artifact(digest=artifact_digest(files), files=tuple(files))

    def _keep(self, path: Path, digest: str) -> None:
        blob = self._blob(digest)
        if blob.exists() and digest_file(blob)[0] == digest:
            return
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(READ_ONLY)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(blob)

    def fetch(self, artifact: Artifact, destination: Path) -> Path:
        """Hard links (copies across file systems) into `destination`; see the interface."""
        for file in artifact.files:
            blob = self._blob(file.digest)
            if not blob.is_file():
                raise RefusedError(
                    f"store: {file.path} ({file.digest}) is missing; run the conversion again to remake it"
                )
            found, _ = digest_file(blob)
            if found != file.digest:
                blob.unlink()
                raise RefusedError(
                    f"store: {file.path} should be {file.digest} but its bytes are {found};"
                    " the damaged file was removed, run the conversion again to remake it"
                )
            target = destination / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(blob, target)
        return destination

    def contains(self, artifact: Artifact) -> bool:
        """Whether every blob is there with its size."""
        for file in artifact.files:
            blob = self._blob(file.digest)
            if not blob.is_file() or blob.stat().st_size != file.size_bytes:
                return False
        return True

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
        write_atomically(self._record(stage, key), json.dumps(record, indent=1, sort_keys=True).encode())

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """An flock on `locks/<stage>-<key>`."""
        path = self.root / "locks" / f"{stage}-{key}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(READ_ONLY)
