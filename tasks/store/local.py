"""The artifact store in a local folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifact import Artifact
from tasks.errors import RefusedError
from tasks.store.blobs import BlobFolder
from tasks.store.digests import artifact_digest
from tasks.store.record_folder import RecordFolder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


class LocalStore(RecordFolder):
    """`blobs/` beside the records of finished stages. A record is written last, after the artifacts it points at."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._blobs = BlobFolder(root / "blobs")

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
