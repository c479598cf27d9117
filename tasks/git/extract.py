"""Writes files of a commit into a folder: regular files by their blobs, then the links between them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.errors import InputError, StageError
from tasks.git.lfs import copy_object
from tasks.git.tree import Entry, Tree, refuse_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.git.repository import Repository

LfsSource = Literal["refuse", "store"]


def write_files(repository: Repository, tree: Tree, paths: Iterable[str], folder: Path, lfs: LfsSource) -> None:
    """Write what lies below `paths`; see `Repository.export`."""
    wanted = {path: entry for each in paths for path, entry in _named(tree, each).items()}
    links = links_to_make(repository, tree, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty, and an export must not mix with other files; name another folder")
    try:
        for path, entry in wanted.items():
            if not entry.is_link:
                _write(repository, entry, path, folder / path, lfs)
        make_links(folder, links)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StageError(f"the commit cannot be written here: {error.strerror}; make room") from None
        raise InputError(f"the commit cannot be written here: {error}; rename what is in the way") from None
    except ValueError as error:
        raise InputError(f"the commit cannot be written here: {error}; rename what is in the way") from None


def _named(tree: Tree, path: str) -> dict[str, Entry]:
    found = tree.under(path.strip("/"))
    if not found:
        raise InputError(f"{path!r}: the commit has nothing of this name; correct it")
    return found


def links_to_make(repository: Repository, tree: Tree, wanted: Mapping[str, Entry]) -> dict[str, str]:
    """Targets of the links among `wanted`, by path.

    Raises:
        InputError: an entry is none that may be written, or a link leads out of `wanted`.
    """
    links, folders = {}, {str(parent) for path in wanted for parent in Path(path).parents}
    for path, entry in wanted.items():
        refuse_unreadable(path, entry)
        if entry.is_link:
            end = tree.resolve(path, repository.read_link) or "."
            if end not in wanted and end not in folders:
                raise InputError(f"{path!r} is a link to {end!r}, which is not exported with it; copy the file there")
            links[path] = repository.read_link(entry)
    return links


def make_links(folder: Path, links: Mapping[str, str]) -> None:
    """Make symbolic links below `folder`. They come last, so that no file is written through one."""
    for path, target in links.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(target)


def _write(repository: Repository, entry: Entry, path: str, destination: Path, lfs: LfsSource) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    pointer = repository.pointer(entry.oid)
    if pointer is None:
        with destination.open("xb") as stream:
            for chunk in repository.chunks(entry.oid):
                stream.write(chunk)
    elif lfs == "store":
        copy_object(repository.lfs_objects, pointer, path, destination)
    else:
        raise InputError(f"{path}: is kept in git LFS, which is not allowed here; allow it, or keep the file in git")
    destination.chmod(0o755 if entry.is_executable else 0o644)
