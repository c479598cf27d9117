"""A git repository, read object by object: what it holds at a commit, without a checkout."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.git.call import Answer, call_git, git_command, git_environment, trusted_directories
from tasks.git.cat_file import BlobReader
from tasks.git.extract import LfsSource, write_files
from tasks.git.tree import Entry, Tree
from tasks.samples.lfs_pointer import LONGEST_POINTER, Pointer, read_pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# What `git check-ref-format` takes, and the suffixes of gitrevisions(7) that count back; no search by text or path.
_REVISION = re.compile(r"[^\x00-\x20\x7f:?*\[\\\-][^\x00-\x20\x7f:?*\[\\]{0,254}")
LONGEST_LINK = 4096
"""Bytes; Linux's PATH_MAX."""


class Repository:
    """A repository at a path: a clone, a worktree or a bare one; `close` it, as with `contextlib.closing`."""

    def __init__(self, path: Path) -> None:
        """Find the repository.

        Raises:
            InputError: there is none at this very path, or it is another user's.
        """
        self.path = path.resolve()
        self._trusted: Sequence[str] = ()
        self._trees: dict[str, Tree] = {}
        self._digests: dict[str, str] = {}
        self._folder = self._open()
        command = git_command(self.path, "cat-file", "--batch", trusted=self._trusted)
        self._blobs = BlobReader(command, git_environment(self.path.parent))

    def close(self) -> None:
        """End git's process; a later call starts another."""
        self._blobs.close()

    def _open(self) -> Path:
        if not self.path.is_dir():
            raise InputError(f"{self.path}: is no folder; name a git repository")
        answer = self._call("rev-parse", "--path-format=absolute", "--git-common-dir")
        if "dubious ownership" in answer.complaint:
            self._trusted = trusted_directories()
            answer = self._call("rev-parse", "--path-format=absolute", "--git-common-dir")
        if "dubious ownership" in answer.complaint:
            raise InputError(
                f"{self.path}: belongs to another user, who could change what is read; if you trust it, run"
                f" `git config --global --add safe.directory {self.path}`"
            )
        if answer.text is None:
            raise InputError(f"{self.path}: is no git repository ({answer.complaint}); name its top folder")
        return Path(answer.text)

    def _call(self, *arguments: str) -> Answer:
        # The ceiling: a repository above the one that was named is not the one that was meant.
        return call_git(self.path, *arguments, ceiling=self.path.parent, trusted=self._trusted)

    def resolve(self, revision: str) -> str:
        """The full id of the commit that a branch, a tag or an id names.

        Raises:
            InputError: it is no revision, or the repository has no such commit.
        """
        if not _REVISION.fullmatch(revision):
            raise InputError(f"{revision!r} is no revision; give a commit's id, a branch or a tag")
        found = self._call("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").text
        if found is None or not _COMMIT.fullmatch(found):
            raise InputError(f"{self.path}: has no commit {revision!r}; {self._remedy()}")
        return found

    def _remedy(self) -> str:
        if self.is_shallow:
            return (
                "the clone is shallow: fetch deeper, as with `git fetch --unshallow` (or `fetch-depth: 0` of"
                " actions/checkout)"
            )
        return "fetch it, or correct the name"

    @cached_property
    def is_shallow(self) -> bool:
        """Whether the repository lacks older commits on purpose."""
        return self._call("rev-parse", "--is-shallow-repository").text == "true"

    def first_parent(self, commit: str) -> str | None:
        """The first parent of a commit; None of the first commit of all.

        Raises:
            InputError: the parent was left out of a shallow clone.
        """
        found = self._call("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^1").text
        if found is None and self.is_shallow:
            raise InputError(f"{self.path}: has not the parent of {commit}; {self._remedy()}")
        return found

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `newer` builds on `older`, or is it. Both are full ids.

        Raises:
            InputError: the repository lacks one of them.
        """
        answer = self._call("merge-base", "--is-ancestor", older, newer)
        if answer.code not in {0, 1}:
            raise InputError(f"{self.path}: cannot compare {older} and {newer}: {answer.complaint}; {self._remedy()}")
        return answer.code == 0

    def tree(self, commit: str) -> Tree:
        """All files of a commit, of which only names and ids are read.

        Raises:
            InputError: a part of the tree is missing or damaged.
        """
        if commit not in self._trees:
            answer = self._call("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit)
            if answer.code != 0:
                raise InputError(
                    f"{self.path}: cannot list commit {commit}: {answer.complaint}; clone it again in full"
                )
            self._trees[commit] = Tree(dict(_entries(answer.output)))
        return self._trees[commit]

    def read(self, oid: str, limit: int) -> bytes | None:
        """The content of a blob, as git holds it; None if it has more than `limit` bytes.

        Raises:
            InputError: the repository lacks it.
        """
        return self._blobs.read(oid, limit)

    def chunks(self, oid: str) -> Iterator[bytes]:
        """The content of a blob, chunk by chunk; read it to its end."""
        return self._blobs.chunks(oid)

    def read_link(self, entry: Entry) -> str:
        """Where a symbolic link leads, as it is written."""
        target = self.read(entry.oid, LONGEST_LINK)
        return "" if target is None else os.fsdecode(target)

    def digest(self, oid: str) -> str:
        """`sha256:…` of a file's content; of a pointer of git LFS, that of the file it stands for."""
        if oid not in self._digests:
            hasher, head = hashlib.sha256(), b""
            for chunk in self._blobs.chunks(oid):
                hasher.update(chunk)
                head += chunk[: LONGEST_POINTER + 1 - len(head)]
            pointer = read_pointer(head)
            self._digests[oid] = f"sha256:{hasher.hexdigest() if pointer is None else pointer.sha256}"
        return self._digests[oid]

    def pointer(self, oid: str) -> Pointer | None:
        """The pointer of git LFS that a blob is; None where it is a file itself."""
        content = self._blobs.read(oid, LONGEST_POINTER)
        return None if content is None else read_pointer(content)

    @property
    def lfs_objects(self) -> Path:
        """Where git LFS keeps the objects that were fetched."""
        return self._folder / "lfs" / "objects"

    def export(self, commit: str, paths: Iterable[str], folder: Path, lfs: LfsSource = "refuse") -> None:
        """Write the files of a commit below `paths` into an empty folder, byte for byte as git holds them.

        No filter, hook or attribute has a say. An empty path is the whole tree. Links are made last, and only those
        that lead to what is written too.

        Args:
            commit: full id.
            paths: files and folders of the tree.
            folder: empty, or not there yet.
            lfs: what to do with a pointer: refuse it, or take its file from the repository's own store.

        Raises:
            InputError: a path, a link or a submodule cannot be written, or an object is missing.
            RefusedError: an object of git LFS is damaged.
        """
        write_files(self, self.tree(commit), paths, folder, lfs)


def _entries(listing: bytes) -> Iterator[tuple[str, Entry]]:
    for line in listing.split(b"\0"):
        if line:
            about, _, path = line.partition(b"\t")
            mode, kind, oid = about.decode().split(" ")
            yield os.fsdecode(path), Entry(mode, kind, oid)
