"""What a step of a rollout rests on: the files that were used, in their order, and what the judge said of them.

Both are written once, each under its digest. The list of files comes in parts, each of which names the part before: a
step adds what came since the last one, however many files a rollout has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from tasks.declared import Digest, Frozen
from tasks.errors import RefusedError
from tasks.store.digests import canonical_json, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.registry.registry import Registry
    from tasks.registry.steps import RolloutAddress

    Document = TypeVar("Document", "FileList", "Evidence")

LONGEST_PART = 30_000
"""Files: an object has 16 MiB at most, and a file's line less than 300 bytes."""


class EvidenceFile(Frozen):
    """A file that was used: its key and the digest of its bytes."""

    key: str
    digest: Digest


class FileList(Frozen):
    """A part of a list of files, those of the part `earlier` before them."""

    schema_version: Literal[1] = 1
    earlier: Digest | None
    files: tuple[EvidenceFile, ...]


class Evidence(Frozen):
    """What a decision rests on: the last part of its list of `files` (None: there was none), and what it was.

    `refused` are files that could not be used, each by key and reason. `judge` is the version of the judge that
    decided: the first did not write it.
    """

    schema_version: Literal[1] = 1
    model: str
    target: str
    rollout: str
    files: Digest | None
    refused: tuple[tuple[str, str], ...]
    outcome: str
    sentences: tuple[str, ...]
    pairs: Annotated[int, Field(ge=0)]
    groups: Annotated[int, Field(ge=0)]
    judge: Annotated[int, Field(ge=1)] = 1


class EvidenceShelf:
    """The evidence of one model and target; each part of a list is read once."""

    def __init__(self, registry: Registry, address: RolloutAddress) -> None:
        self._registry, self._address = registry, address
        self._known: dict[str, tuple[EvidenceFile, ...]] = {}

    def write_files(self, earlier: str | None, files: Sequence[EvidenceFile]) -> str | None:
        """Add files to a list (None: a new one); return its digest, None where it is empty.

        Raises:
            RefusedError: something else lies where a part belongs.
        """
        for start in range(0, len(files), LONGEST_PART):
            part = FileList(earlier=earlier, files=tuple(files[start : start + LONGEST_PART]))
            earlier = self._write(part)
        return earlier

    def write(self, evidence: Evidence) -> str:
        """Write what a decision rests on; return its digest.

        Raises:
            RefusedError: something else lies there.
        """
        return self._write(evidence)

    def _write(self, document: Frozen) -> str:
        content = canonical_json(document.model_dump(mode="json"))
        digest = digest_bytes(content)
        if not self._registry.objects.create(self._address.evidence_key(digest), content):
            self._content(digest)
        return digest

    def read(self, digest: str) -> Evidence:
        """What a decision rests on.

        Raises:
            RefusedError: it is missing, or was changed.
        """
        return self._parse(Evidence, digest)

    def files(self, digest: str | None) -> tuple[EvidenceFile, ...]:
        """All files of a list, in the order in which they were used.

        Raises:
            RefusedError: a part is missing, or was changed.
        """
        parts: list[tuple[EvidenceFile, ...]] = []
        asked = digest
        while digest is not None and digest not in self._known:
            part = self._parse(FileList, digest)
            parts.append(part.files)
            digest = part.earlier
        before = () if digest is None else self._known[digest]
        found = before + tuple(file for part in reversed(parts) for file in part)
        if asked is not None:
            self._known[asked] = found
        return found

    def _parse(self, kind: type[Document], digest: str) -> Document:
        try:
            return kind.model_validate_json(self._content(digest))
        except ValidationError:
            raise RefusedError(
                f"rollout {self._address}: evidence {digest} is of another release of enginegate"
            ) from None

    def _content(self, digest: str) -> bytes:
        found = self._registry.objects.read(self._address.evidence_key(digest))
        if found is None or digest_bytes(found.content) != digest:
            raise RefusedError(
                f"rollout {self._address}: evidence {digest} is missing or was changed; restore it from the bucket's"
                " versions or a backup"
            )
        return found.content
