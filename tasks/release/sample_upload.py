"""Brings the samples of live traffic that a host keeps to a bucket or folder: each shard once, and never written over.

A shard stays on the host until its retention is over there. Its digest is part of its name, so that whoever fetches it
can check it, and a process that was killed in between finds it there.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.process.child import ignore_progress
from tasks.store.digests import digest_file
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.objects.interface import ObjectStore

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME = re.compile(r"(?:.+/)?(?P<day>\d{4}-\d{2}-\d{2})/(?P<name>[^/]+)-(?P<sha256>[0-9a-f]{64})\.npz")


@dataclass
class SampleUpload:
    """The shards in `folder`, by day, to `place` in a store: `MODEL/TARGET/DAY/HOST-SHARD-SHA256.npz`."""

    folder: Path
    place: str
    host: str
    _sent: set[Path] = field(default_factory=set)

    def run(self, objects: ObjectStore) -> int:
        """Upload what was not yet, and return how many shards that were.

        Raises:
            InputError, StageError: the store cannot be written; the shards wait.
        """
        found = [
            path
            for day in (sorted(self.folder.iterdir()) if self.folder.is_dir() else ())
            if _DAY.fullmatch(day.name)
            for path in sorted(day.glob("[!.]*.npz"))
        ]
        self._sent &= set(found)
        fresh = [path for path in found if path not in self._sent]
        for path in fresh:
            with suppress(FileNotFoundError):  # its retention was over just now
                digest = digest_file(path)[0]
                name = f"{self.host}-{path.stem}-{digest.removeprefix('sha256:')}.npz"
                objects.upload(f"{self.place}/{path.parent.name}/{name}", path, digest, ignore_progress)
                self._sent.add(path)
        return len(fresh)


@contextmanager
def fetched_samples(objects: ObjectStore, downloads: Path) -> Iterator[Path]:
    """A folder below `downloads` with the shards in a store, which is removed on leaving it.

    Raises:
        InputError: there is none, or the store cannot be read.
        RefusedError: a shard is not what the digest in its name says.
        StageError: the store cannot be reached.
    """
    shards = {entry.key: found for entry in objects.list("") if (found := _NAME.fullmatch(entry.key))}
    if not shards:
        raise InputError(
            f"{objects.address}: holds no samples (DAY/NAME-SHA256.npz, as `enginegate pull --samples-to` writes them);"
            " name the prefix that they lie under"
        )
    with ScratchSpace(downloads / "scratch").folder() as folder:
        for key, found in shards.items():
            path = folder / "samples" / found["day"] / f"{found['name']}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            objects.download(key, path, f"sha256:{found['sha256']}", ignore_progress)
        yield folder / "samples"
