"""What an artifact store does. Stages see nothing else of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tasks.artifact import Artifact


class ArtifactStore(Protocol):
    """Content-addressed, write-once files, and the records of finished stages that point at them."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A private folder, removed on leaving it, or, if this process is killed, by whoever opens the store next."""

    def put(self, folder: Path) -> Artifact:
        """Store every regular file below `folder`, which lies in a scratch folder; its files are moved away."""

    def fetch(self, artifact: Artifact, destination: Path) -> Path:
        """Lay the files of `artifact` into `destination`, read-only, each checked against its digest.

        Raises:
            RefusedError: a file is missing or its bytes have changed.
        """

    def contains(self, artifact: Artifact) -> bool:
        """Whether the artifact's digest is that of its files, and each is there with its size.

        Their own digests are checked by `fetch`.
        """

    def read_record(self, stage: str, key: str) -> dict[str, object] | None:
        """The record of a finished stage, or None."""

    def write_record(self, stage: str, key: str, record: Mapping[str, object]) -> None:
        """Keep the record of a finished stage, atomically, in place of any older one."""

    def list_records(self, stage: str) -> tuple[str, ...]:
        """The keys of a stage that have a record, sorted."""

    def lock(self, stage: str, key: str) -> AbstractContextManager[None]:
        """Hold a stage, so that two processes never do the same work twice. Freed when its process dies."""

    def is_locked(self, stage: str, key: str) -> bool:
        """Whether a live process holds a stage at this moment."""
