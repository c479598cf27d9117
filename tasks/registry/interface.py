"""What a registry does: keeps engines that passed, for good, and gives out nothing that it has not checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.records import Cell, EngineManifest


class Registry(Protocol):
    """Write-once engines by engine id."""

    def publish(self, manifest: EngineManifest, folders: Mapping[str, Path]) -> bool:
        """Register an engine; return False if this very engine is registered already.

        `folders` holds the files of each artifact of the manifest, by the artifact's digest.

        Raises:
            RefusedError: the verdict is no pass, a file does not match its digest, or the engine id is taken by
                an engine of other content.
        """

    def list_cells(self) -> list[Cell]:
        """All engines, sorted by engine id; their manifests are not read yet."""

    def read_manifest(self, cell: Cell) -> EngineManifest:
        """The manifest of one engine.

        Raises:
            InputError: there is no such engine.
            RefusedError: the manifest is damaged.
        """

    def verify(self, cell: Cell) -> list[str]:
        """Re-read an engine; return what is wrong with it, one sentence each: none if all is well.

        Checks the manifest's digest, every file's digest and that the verdict follows from the stored comparison,
        the speed-ups and other engines' p-values that it was given with, under the stored policy.

        Raises:
            InputError: there is no such engine.
        """
