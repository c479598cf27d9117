"""A folder of write-once files named by their digest, `sha256/ab/cdef…`: the bytes of the store and the registry."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tasks.artifact import Artifact, ArtifactFile
from tasks.errors import RefusedError
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from pathlib import Path


READ_ONLY = 0o444


class BlobFolder:
    """Files by digest below `root`. A file is there whole or not at all; every way out checks its bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the file of `digest` lies, if it does."""
        algorithm, _, value = digest.partition(":")
        return self.root / algorithm / value[:2] / value[2:]

    def holds(self, file: ArtifactFile) -> bool:
        """Whether the file is there with its size; its bytes are checked on the way out."""
        path = self.path(file.digest)
        return path.is_file() and path.stat().st_size == file.size_bytes

    def check(self, file: ArtifactFile) -> str | None:
        """What is wrong with a file, in a few words, or None: `missing`, or `has digest …`."""
        path = self.path(file.digest)
        if not path.is_file():
            return "is missing"
        found, _ = digest_file(path)
        return None if found == file.digest else f"has digest {found}"

    def take(self, path: Path, name: str) -> ArtifactFile:
        """Move a file of the same file system in; `name` is its path in the artifact."""
        digest, size = digest_file(path)
        file = ArtifactFile(path=name, digest=digest, size_bytes=size)
        blob = self.path(digest)
        if blob.exists() and self.check(file) is None:
            path.unlink()
            return file
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(READ_ONLY)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(blob)
        return file

    def lay(self, artifact: Artifact, destination: Path) -> Path:
        """Put the files of an artifact into `destination`, read-only, each checked.

        Raises:
            RefusedError: naming the first file that is missing or changed.
        """
        destination.mkdir(parents=True, exist_ok=True)
        for file in artifact.files:
            fault = self.check(file)
            if fault is not None:
                raise RefusedError(f"{file.path} ({file.digest}) {fault}")
            target = destination / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(self.path(file.digest), target)
        return destination


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that cannot be (another file system, too many links).

    Raises:
        FileExistsError: there is a `target` already.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError:  # it may be a link to another blob, which a copy would write over
        raise
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(READ_ONLY)
