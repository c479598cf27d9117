"""The files of a commit by path, and what is safe to do with names that a stranger chose."""

from __future__ import annotations

import posixpath
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINK, SUBMODULE, EXECUTABLE = "120000", "160000", "100755"
MOST_HOPS = 40
"""Links that Linux follows in one path before it gives up (path_resolution(7))."""
# Windows and NTFS find `.git` under these too (CVE-2014-9390, CVE-2019-1352).
GIT_FOLDERS = frozenset({".git", "git~1"})


@dataclass(frozen=True)
class Entry:
    """One file of a commit: git's mode in octal digits, the object's kind, and its id."""

    mode: str
    kind: str
    oid: str

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link, whose content is where it leads."""
        return self.mode == LINK

    @property
    def is_submodule(self) -> bool:
        """Whether it stands for a commit of another repository."""
        return self.mode == SUBMODULE or self.kind != "blob"

    @property
    def is_executable(self) -> bool:
        """Whether its file may be executed."""
        return self.mode == EXECUTABLE


@dataclass(frozen=True)
class Tree:
    """The files of a commit by path; names are as git holds them, of any characters."""

    entries: Mapping[str, Entry]

    @cached_property
    def _paths(self) -> list[str]:
        return sorted(self.entries)

    def under(self, folder: str) -> dict[str, Entry]:
        """The files below a folder, or the one file of this path; all of them for an empty path."""
        if not folder:
            return dict(self.entries)
        if folder in self.entries:
            return {folder: self.entries[folder]}
        # "0" is the character after "/".
        first, last = (bisect_left(self._paths, folder + end) for end in "/0")
        return {path: self.entries[path] for path in self._paths[first:last]}

    def resolve(self, path: str, read_link: Callable[[Entry], str]) -> str:
        """Where a path leads when links are followed, as the file system would; it need not exist.

        Raises:
            InputError: it leaves the tree, or its links lead in a circle.
        """
        pending, done, hops = path.split("/")[::-1], list[str](), 0
        if path.startswith("/"):
            raise InputError(f"{path!r} is absolute; name a path inside the repository")
        while pending:
            part = pending.pop()
            if part == ".." and not done:
                raise InputError(f"{path!r} leaves the repository; copy what it names into it")
            if part == "..":
                done.pop()
            elif part not in {"", "."}:
                done.append(part)
                entry = self.entries.get("/".join(done))
                if entry is not None and entry.is_link:
                    hops += 1
                    pending += _target(path, read_link(entry), hops).split("/")[::-1]
                    done.pop()
        return "/".join(done)


def _target(path: str, target: str, hops: int) -> str:
    if hops > MOST_HOPS:
        raise InputError(f"{path!r} leads through links in a circle; remove one of them")
    if target.startswith("/"):
        raise InputError(f"{path!r} leads through a link to {target!r}, out of the repository; copy the file into it")
    if not target or "\0" in target:
        raise InputError(f"{path!r} leads through a link to nowhere ({target!r}); correct it")
    return target


def join(folder: str, path: str) -> str:
    """A path below a folder; the empty folder is the tree itself."""
    return posixpath.join(folder, path) if folder else path


def is_hidden(path: str) -> bool:
    """Whether no stage takes a file for source: a part of its path is hidden, or compiled Python."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.split("/"))


def why_unsafe(path: str) -> str | None:
    """Why a path of a tree must not be written to any file system; None where it may.

    git itself makes no such names; a tree made by hand can hold them.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return "it is absolute, or has an empty part, `.` or `..`"
    if "\\" in path or "\0" in path:
        return "it holds a backslash or a NUL"
    if any(_folded(part) in GIT_FOLDERS for part in parts):
        return "some file systems take a part of it for .git"
    return None


def _folded(part: str) -> str:
    # HFS+ passes over format characters, NTFS over what follows a colon and over dots and spaces at the end.
    visible = "".join(each for each in part if unicodedata.category(each) != "Cf")
    return visible.partition(":")[0].rstrip(". ").casefold()


def refuse_unreadable(path: str, entry: Entry) -> None:
    """Raise InputError where a file that a model needs is one of a submodule, or has an unsafe name."""
    if entry.is_submodule:
        raise InputError(f"{path!r} is a submodule, and submodules are not read; copy its files into the repository")
    reason = why_unsafe(path)
    if reason is not None:
        raise InputError(f"{path!r} is no name of a file here: {reason}; rename it")
