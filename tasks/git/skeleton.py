"""A model directory of a commit as it would lie on disk, but with empty files: only documents have their text.

`read_model_directory` then finds files, follows links and tells of mistakes in the one way that it has. What a file
holds is asked of git.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.git.commit import Commit, outline_of
from tasks.git.extract import make_links
from tasks.git.tree import Entry, is_hidden, join, refuse_unreadable, why_unsafe
from tasks.model.model_directory import SPEC_FILE
from tasks.model.set_manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def skeleton_of(commit: Commit, directory: str) -> Iterator[Path]:
    """The root of a temporary skeleton, which holds a model directory and the calibration set that it names.

    Raises:
        InputError: a document is missing or a trap, or a file has a name or a kind that is not taken.
    """
    with tempfile.TemporaryDirectory(prefix="enginegate-plan-") as temporary:
        root = Path(temporary).resolve()
        files, documents = _contents(commit, directory)
        try:
            _lay(commit, root, files, documents)
        except (OSError, ValueError) as error:  # a name too long, a file where a folder should be
            raise InputError(f"its files cannot lie in one folder: {_without(root, str(error))}; rename one") from None
        try:
            yield root
        except InputError as error:
            raise InputError(_without(root, str(error))) from None


def _without(root: Path, text: str) -> str:
    return text.replace(f"{root}/", "").replace(str(root), ".")


def _contents(commit: Commit, directory: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries to lay, and the texts of those that are documents."""
    files = dict(_needed(commit.tree.under(directory)))
    end, text = commit.document(join(directory, SPEC_FILE), SPEC_FILE)
    documents, outline = {end: text}, outline_of(text)
    if outline.policy is not None:
        documents |= _if_there(commit, directory, outline.policy)
    folder = commit.calibration_folder(directory, outline)
    if folder is not None:
        files |= _needed(commit.tree.under(folder))
        documents |= _if_there(commit, folder, MANIFEST_FILE)
    return files, documents


def _if_there(commit: Commit, folder: str, path: str) -> dict[str, str]:
    # What is missing or leaves the directory is told by `read_model_directory`.
    try:
        end = commit.resolve(join(folder, path))
    except InputError:
        return {}
    return dict([commit.document(end, path)]) if end in commit.tree.entries else {}


def _needed(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    for path, entry in entries.items():
        if is_hidden(path) and (entry.is_submodule or why_unsafe(path) is not None):
            continue  # no stage reads it
        refuse_unreadable(path, entry)
        yield path, entry


def _lay(commit: Commit, root: Path, files: Mapping[str, Entry], documents: Mapping[str, str]) -> None:
    links = {}
    for path, entry in files.items():
        if entry.is_link:
            commit.resolve(path)
            links[path] = commit.repository.read_link(entry)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(documents.get(path, ""), encoding="utf-8", newline="")
    make_links(root, links)
