"""Git repositories for tests: ordinary ones, and ones that git itself would never make."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tasks.git.repository import Repository
from tests.tasks.tiny import changed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org", "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    """What git prints; an error where it fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git there is
        input=data,
        env={**os.environ, **IDENTITY},
        check=True,
        capture_output=True,
        timeout=30,
    )
    return os.fsdecode(done.stdout).strip()


@dataclass(frozen=True)
class Source:
    """A working tree and its repository."""

    root: Path

    def write(self, files: dict[str, str | bytes | None]) -> Source:
        """Write files, or remove those that are None."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def commit(self, files: dict[str, str | bytes | None] | None = None) -> str:
        """Commit the working tree after `write`; the commit's id."""
        self.write(files or {})
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message", "push")
        return git(self.root, "rev-parse", "HEAD")

    def blob(self, content: bytes) -> str:
        """The id of a new blob."""
        return git(self.root, "hash-object", "-w", "--stdin", data=content)

    def tree(self, entries: dict[str, str]) -> str:
        """The id of a tree of `mode kind id` by name; git checks nothing of it."""
        lines = [f"{about}\t{name}\0" for name, about in entries.items()]
        return git(self.root, "mktree", "-z", "--missing", data=os.fsencode("".join(lines)))

    def commit_tree(self, tree: str) -> str:
        """The id of a commit of a tree."""
        return git(self.root, "commit-tree", tree, "-m", "by hand")

    def opened(self) -> Repository:
        """The repository as Enginegate reads it; close it."""
        return Repository(self.root)


def make_source(root: Path) -> Source:
    """An empty repository."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    return Source(root)


def opened(source: Source) -> Iterator[Repository]:
    """The repository, closed at the end."""
    with closing(source.opened()) as repository:
        yield repository


def pointer(sha256: str, size: int) -> bytes:
    """What git LFS puts into git."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def model_files(folder: str, **changes: Any) -> dict[str, str | bytes | None]:
    """The files of a small model directory; its data are not read by a plan."""
    prefix = f"{folder}/" if folder else ""
    return {
        f"{prefix}model.yaml": yaml.safe_dump(changed(**changes), sort_keys=False),
        f"{prefix}model.py": "def build(): ...\n",
        f"{prefix}validation.npz": b"data",
    }


MANIFEST = """name: small
inputs: {features: {dtype: float32, shape: [batch, 4]}}
source: a test
collected: {from: 2026-01-01, to: 2026-01-02}
samples: 64
files: [{path: set.npz, samples: 64, sha256: "SHA"}]
"""


def set_files(folder: str, sha256: str = "1" * 64) -> dict[str, str | bytes | None]:
    """A calibration set whose manifest names one file of this digest."""
    return {f"{folder}/manifest.yaml": MANIFEST.replace("SHA", sha256), f"{folder}/set.npz": b"set"}
