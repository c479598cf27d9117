"""What sources of one archive have in common: the file is the key, and its listing is read before it is laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.source_spec import SourceSpec
from tasks.sources.interface import ORIGIN, SOURCE_FOLDER, ModuleRequest, copy_file, digests_outside, explain, named
from tasks.store.digests import digest_once

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory


class ArchiveFile:
    """Base of the kinds `pt2` and `torchscript`."""

    kind = ""
    packages: tuple[str, ...] = ("torch", "numpy")

    def takes(self, source: str | SourceSpec) -> bool:
        """Whether it is a mapping of this kind; see the interface."""
        return isinstance(source, SourceSpec) and source.kind == self.kind

    def inspect(self, path: Path, origin: str) -> None:
        """Look at the archive without loading anything of it.

        Raises:
            InputError: it is not of this kind, not whole, or could run code when it is loaded.
        """
        raise NotImplementedError

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """The digest of the file; see the interface."""
        source, path = named(directory), directory.source_path
        assert path is not None  # noqa: S101 - the kind has a path
        self.inspect(path, f"{ORIGIN}.{self.kind}: {source.value}")
        return {"source": source.model_dump(mode="json"), "file": digest_once(path)}

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """The digest of a file beside the directory; see the interface."""
        path = directory.source_path
        return {} if path is None else digests_outside(directory, {path.name: path})

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the file; see the interface."""
        path = directory.source_path
        assert path is not None  # noqa: S101 - the kind has a path
        copy_file(path, self.laid_out(folder / SOURCE_FOLDER), str(key["file"]))

    def laid_out(self, folder: Path) -> Path:
        """Where the file lies for the child."""
        return folder / f"model.{self.kind}"

    @staticmethod
    def told(error: BaseException, request: ModuleRequest) -> str:
        """The first lines of what torch says of an archive that it cannot load."""
        return explain(error, request)[:LONGEST]


LONGEST = 600
