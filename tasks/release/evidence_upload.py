"""Brings what a host saw of its rollouts into the registry: each file once, under its own name, and then gone here.

A process that is killed in between finds the object there, with the same bytes, and only removes its file.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import InputError, RefusedError
from tasks.registry.survey import in_threads
from tasks.serving.python_models.pairs import arms_document, empty_arms, write_arms

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore
    from tasks.registry.rollouts import RolloutAddress

MOST_A_LOOK = 500
MOST_FILES, MOST_BYTES = 5_000, 512 << 20
"""What waits on a host for a registry that is away: some hours. Older files give way to newer ones."""
LONGEST_HOST = 100
WATCH = "watch"
"""What stands for a router's instance in the names of files that the watch writes."""
_ROLLOUT = re.compile(r"[0-9a-f]{12}")
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def host_name(given: str | None = None) -> str:
    """What a host is called in the registry: as it was given, or by its own name, made safe.

    Raises:
        InputError: no host can be called what was given.
    """
    if given is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).lstrip(".")[:LONGEST_HOST] or "host"
    if not _SAFE.fullmatch(given):
        raise InputError(
            f"--host-name {given!r}: is no name for a host; take letters, digits, `.`, `_` and `-`, 100 at most, and"
            " no `.` first"
        )
    return given


@dataclass(frozen=True)
class Uploaded:
    """How many files went, how many still wait, and how many of them gave way since the watch began."""

    files: int
    waiting: int
    lost: int


class EvidenceUpload:
    """The files below `root`, in a folder for each rollout."""

    def __init__(self, root: Path, address: RolloutAddress, host: str) -> None:
        """Bring them into the registry, as those of the host `host`."""
        self._root, self._address, self._host, self._lost = root, address, host, 0

    def run(self, objects: ObjectStore) -> Uploaded:
        """Upload what is finished, the oldest first, and make room where too much waits.

        Raises:
            StageError: the registry cannot be reached; the files wait.
            RefusedError: another file of the same name is there already.
        """
        waiting = self._waiting()
        try:
            sent = waiting[:MOST_A_LOOK]
            in_threads(lambda path: self._send(objects, path), sent)
            for folder in {path.parent for path in sent}:
                with suppress(OSError):  # the router still writes there
                    folder.rmdir()
            return Uploaded(len(sent), len(waiting) - len(sent), self._lost)
        finally:
            self._make_room()

    @property
    def status(self) -> Uploaded:
        """How it stands without a registry."""
        return Uploaded(0, len(self._waiting()), self._lost)

    def _waiting(self) -> list[Path]:
        """Every finished file, the oldest first: a router links its files in place whole."""
        found = []
        for path in self._root.glob("*/*") if self._root.is_dir() else ():
            if _ROLLOUT.fullmatch(path.parent.name) and not path.name.startswith(".") and path.is_file():
                with suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _send(self, objects: ObjectStore, path: Path) -> None:
        content = path.read_bytes()
        key = f"{self._address.shards(path.parent.name)}{self._host}/{path.name}"
        if not objects.create(key, content):
            found = objects.read(key)
            if found is None or found.content != content:
                raise RefusedError(
                    f"{key}: another file of this name is in the registry; where two hosts are called {self._host},"
                    " give each a --host-name of its own"
                )
        path.unlink()

    def _make_room(self) -> None:
        """Remove the oldest files beyond the bounds, pairs before counts, and leave word of how many pairs went."""
        waiting = self._waiting()
        sizes = {path: path.stat().st_size for path in waiting}
        total, count = sum(sizes.values()), len(waiting)
        for path in sorted(waiting, key=lambda path: path.suffix != ".npz"):
            if total <= MOST_BYTES and count <= MOST_FILES:
                return
            self._drop(path)
            total, count = total - sizes[path], count - 1

    def _drop(self, path: Path) -> None:
        steps: dict[int, int] = {}
        if path.suffix == ".npz":
            with suppress(OSError, ValueError, KeyError), np.load(path, allow_pickle=False) as arrays:
                steps = {
                    int(step): len(set(arrays["request"][arrays["step"] == step].tolist()))
                    for step in set(arrays["step"].tolist())
                }
        moment = path.stat().st_mtime
        path.unlink()
        self._lost += 1
        for step, pairs in steps.items():
            write_arms(path.parent, WATCH, moment, arms_document(step, moment, moment, empty_arms(), pairs))
