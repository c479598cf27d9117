"""The files of an engine that a serving host gets, checked against their digests as they are written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.registry.evidence import parts_of
from tasks.registry.model_signature import MODEL_SIGNATURE
from tasks.release.serving_folder import MANIFEST, folder_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry
    from tasks.release.serving_folder import ServingFolder


def place_engine(
    registry: Registry,
    folder: ServingFolder,
    signed: SignedManifest,
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> tuple[str, ...] | None:
    """Put an engine's files into its folder; returns what `ServingFolder.place` does.

    Raises:
        RefusedError: a file has another digest.
        StageError: the registry cannot be reached, or there is no room.
    """
    parts = parts_of(signed.manifest)
    done, total = 0, sum(artifact.size_bytes for artifact in parts.values())

    def fetch(artifact: Artifact, to: Path) -> None:
        nonlocal done
        for file in artifact.files:
            _require_room(folder.root, file.size_bytes)
            alone = artifact.model_copy(update={"files": (file,)})
            registry.engines.fetch(alone, to, _shifted(on_progress, done, total))
            done += file.size_bytes

    documents = {MANIFEST: signed.envelope}
    if (signature := registry.engines.model_signature(signed)) is not None:
        documents[MODEL_SIGNATURE] = signature
    return folder.place(folder_name(signed.manifest.engine_id, signed.digest), parts, documents, fetch)


def _shifted(on_progress: Callable[[int, int], None], start: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: on_progress(start + done, total)


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StageError(f"{folder}: a file of {needed:,} bytes has no room in the {free:,} that are free; make room")
