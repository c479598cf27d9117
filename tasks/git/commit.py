"""Model directories in a commit: where they are, and what each needs outside of itself."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.git.tree import Tree, is_hidden, join
from tasks.model.documents import MOST_BYTES, checked_text, read_leniently
from tasks.model.model_directory import SPEC_FILE
from tasks.model.set_manifest import MANIFEST_FILE
from tasks.samples.lfs_pointer import read_pointer

if TYPE_CHECKING:
    from tasks.git.repository import Repository


@dataclass(frozen=True)
class Outline:
    """What model.yaml names, before it is checked; None where it does not say, or cannot be read."""

    name: str | None = None
    policy: str | None = None
    calibration_set: str | None = None


def model_directories(tree: Tree) -> list[str]:
    """The folders of a tree that hold model.yaml, sorted; hidden ones are none. The top folder is the empty text."""
    found = (path for path in tree.entries if posixpath.basename(path) == SPEC_FILE)
    return sorted(posixpath.dirname(path) for path in found if not is_hidden(path))


@dataclass(frozen=True)
class Commit:
    """A commit, to find documents in it. `outlines` by blob may be shared with another commit of the repository."""

    repository: Repository
    tree: Tree
    outlines: dict[str, Outline] = field(default_factory=dict)

    def document(self, path: str, origin: str) -> tuple[str, str]:
        """The path of a document once links were followed, and its text, which is safe to be read as YAML.

        Raises:
            InputError: it is missing, a trap, no text or kept in git LFS.
        """
        end = self.resolve(path)
        entry = self.tree.entries.get(end)
        if entry is None or entry.is_submodule:
            raise InputError(f"{origin}: {path!r} is no file in the commit; add it, or correct the path")
        content = self.repository.read(entry.oid, MOST_BYTES)
        if content is not None and read_pointer(content) is not None:
            raise InputError(
                f"{origin}: is kept in git LFS; keep documents in git itself, so that a plan can read them"
            )
        return end, checked_text(content, origin)

    def resolve(self, path: str) -> str:
        """Where a path leads; see `Tree.resolve`."""
        return self.tree.resolve(path, self.repository.read_link)

    def outline(self, directory: str) -> Outline:
        """What the model.yaml of a directory names; empty where it cannot be read."""
        try:
            end = self.resolve(join(directory, SPEC_FILE))
            oid = self.tree.entries[end].oid if end in self.tree.entries else ""
            if oid not in self.outlines:
                self.outlines[oid] = outline_of(self.document(end, SPEC_FILE)[1])
        except InputError:
            return Outline()
        return self.outlines[oid]

    def calibration_folder(self, directory: str, outline: Outline) -> str | None:
        """The folder of the calibration set that a model names; None where it names none.

        Raises:
            InputError: it lies outside of the repository.
        """
        if outline.calibration_set is None:
            return None
        try:
            return self.resolve(join(directory, outline.calibration_set))
        except InputError as error:
            raise InputError(f"{SPEC_FILE}: calibration.set: {error}") from None

    def needed_paths(self, directory: str) -> tuple[str, ...]:
        """What a conversion of a model reads: its directory, its calibration set, and the sample this must resemble.

        Raises:
            InputError: one of them lies outside of the repository.
        """
        folder = self.calibration_folder(directory, self.outline(directory))
        if folder is None:
            return (directory,)
        _, text = self.document(join(folder, MANIFEST_FILE), MANIFEST_FILE)
        resembles = _text(read_leniently(text), "resembles")
        sample = None if resembles is None else self.resolve(join(folder, resembles))
        return (directory, folder) if sample is None or not self.tree.under(sample) else (directory, folder, sample)


def outline_of(text: str) -> Outline:
    """What a checked model.yaml names."""
    content = read_leniently(text)
    return Outline(
        name=_text(content, "name"),
        policy=_text(content.get("validation"), "policy"),
        calibration_set=_text(content.get("calibration"), "set"),
    )


def _text(content: Any, key: str) -> str | None:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, str) and found else None
