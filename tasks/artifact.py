"""Content-addressed sets of files, which the stages hand each other and the registry keeps."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator

from tasks.declared import Digest, Frozen


class ArtifactFile(Frozen):
    """One file of an artifact: its path inside it, its digest and size."""

    path: str
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{value!r} leaves the artifact; give a path inside it")
        if not value.isprintable() or path.as_posix() != value:
            raise ValueError(f"{value!r} is no plain path; name the file otherwise")
        return value


class Artifact(Frozen):
    """Content-addressed set of files in the artifact store. `digest` covers every path, digest and size."""

    digest: Digest
    files: tuple[ArtifactFile, ...]

    @field_validator("files")
    @classmethod
    def _lie_beside_each_other(cls, value: tuple[ArtifactFile, ...]) -> tuple[ArtifactFile, ...]:
        paths = [file.path for file in value]
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if len(set(paths)) < len(paths) or folders & set(paths):
            raise ValueError("two files have one place; name one otherwise")
        return value

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size_bytes for file in self.files)
