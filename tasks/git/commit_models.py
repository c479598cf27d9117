"""The models of one commit: their outlines at once, their content when it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.git.commit import Commit, Outline, model_directories
from tasks.git.skeleton import skeleton_of
from tasks.model.model_directory import SPEC_FILE, read_model_directory, require_calibration
from tasks.model.version import ModelContent, read_content, version_of
from tasks.sources import outside_of

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.git.repository import Repository
    from tasks.git.tree import Entry, Tree


class CommitModels:
    """How the models of a commit stand. What was read is kept."""

    def __init__(
        self, repository: Repository, tree: Tree, outlines: dict[str, Outline], policy_floor: str | None = None
    ) -> None:
        self.tree, self._policy_floor = tree, policy_floor
        self._commit = Commit(repository, tree, outlines)
        self._contents: dict[str, ModelContent | InputError] = {}
        self._entries: dict[str, dict[str, Entry]] = {}

    @cached_property
    def directories(self) -> dict[str, Outline]:
        """The model directories with what each names, by path."""
        return {directory: self._commit.outline(directory) for directory in model_directories(self.tree)}

    @cached_property
    def _homes(self) -> dict[str, list[str]]:
        homes: dict[str, list[str]] = {}
        for directory, outline in self.directories.items():
            if outline.name is not None:
                homes.setdefault(outline.name, []).append(directory)
        return homes

    def outline(self, directory: str) -> Outline:
        """What the model.yaml of a directory names; empty where there is none."""
        return self.directories.get(directory, Outline())

    def homes(self, name: str | None) -> list[str]:
        """The directories whose model has this name; more than one is a mistake of theirs."""
        return [] if name is None else self._homes.get(name, [])

    def namesakes(self, directory: str) -> list[str]:
        """The directories whose model has the name of this one's."""
        return self.homes(self.outline(directory).name)

    def entries_of(self, directory: str) -> dict[str, Entry]:
        """The files of a model directory and of the calibration set that it names."""
        if directory not in self.directories:
            return {}
        if directory not in self._entries:
            try:
                folder = self._commit.calibration_folder(directory, self.outline(directory))
            except InputError:
                folder = None
            shared = {} if folder is None else self.tree.under(folder)
            self._entries[directory] = {**self.tree.under(directory), **shared}
        return self._entries[directory]

    def footprint(self, directory: str) -> object:
        """Equal in two commits only where the content is: the files, and what leads to the calibration set."""
        try:
            folder = self._commit.calibration_folder(directory, self.outline(directory))
        except InputError as error:
            folder = str(error)
        return (folder, self.entries_of(directory))

    def content(self, directory: str) -> ModelContent:
        """The content of a model.

        Raises:
            InputError: it cannot be read, or converted.
        """
        if directory not in self._contents:
            try:
                self._contents[directory] = content_at(self._commit, directory)
            except InputError as error:
                self._contents[directory] = error
        found = self._contents[directory]
        if isinstance(found, InputError):
            raise found
        return found

    def version_of(self, content: ModelContent) -> str:
        """The version of a model's content, under the policy floor that holds here."""
        return version_of(content, self._policy_floor)


def content_at(commit: Commit, directory: str) -> ModelContent:
    """The content of a model directory of a commit, from git's objects. A pointer of git LFS counts as its file.

    Raises:
        InputError: model.yaml, or what it names, has a mistake, or an object is missing.
    """
    with skeleton_of(commit, directory) as root:

        def digest(path: Path) -> str:
            return commit.repository.digest(commit.tree.entries[path.resolve().relative_to(root).as_posix()].oid)

        found = read_model_directory(root / directory)
        if found.source_path is not None and not found.source_path.is_relative_to(found.root):
            raise InputError(
                f"{SPEC_FILE}: source: {found.spec.source} leaves the model directory, and a commit alone must say what"
                " the model is: put it into the directory (git LFS takes large files), or give a model of MLflow"
            )
        if any(precision.is_quantized for precision in found.spec.precisions):
            require_calibration(found)
        return read_content(found, digest, outside_of(found))
