"""SHA-256 of files, of JSON values and of artifacts; one way each, so that the same content has one name everywhere."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import validation
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.artifact import ArtifactFile

CHUNK_BYTES = 1 << 20
# A file that is younger than this may be written again without a new time: file systems count in ticks, some in
# seconds.
SETTLED_NS = 2_500_000_000


def digest_file(path: Path) -> tuple[str, int]:
    """Return (`sha256:…`, size in bytes) of a file, read in chunks.

    Raises:
        InputError: it is a pipe, a socket or a device.
    """
    refuse_special(path, str(path))
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return f"sha256:{hasher.hexdigest()}", size


def digest_once(path: Path) -> str:
    """`sha256:…` of a file that this process reads again only when the file system says that it may have changed.

    What says so is its inode, its size, and the time of its last change, which nobody can set back.
    """
    stat = path.stat()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < SETTLED_NS:
        return digest_file(path)[0]
    return _digest_of(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 14)
def _digest_of(path: Path, *_stat: int) -> str:
    return digest_file(path)[0]


def copy_checked(source: Path, target: Path, digest: str) -> bool:
    """Copy a file in one reading of it; return whether what was copied has `digest`."""
    hasher = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as written:
        while chunk := read.read(CHUNK_BYTES):
            hasher.update(chunk)
            written.write(chunk)
    return f"sha256:{hasher.hexdigest()}" == digest


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no white space. NaN and infinities are refused: they compare unequal to themselves."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_bytes(content: bytes) -> str:
    """`sha256:…` of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_json(value: object) -> str:
    """`sha256:…` of the canonical JSON of a value."""
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"


def artifact_digest(files: Iterable[ArtifactFile]) -> str:
    """`sha256:…` over path, digest and size of every file, in the order of their paths."""
    return digest_json(sorted((file.path, file.digest, file.size_bytes) for file in files))


@functools.cache
def statistics_digest() -> str:
    """Digest of the code that measures: figures of an older one are not to be judged by newer rules."""
    folder = Path(validation.__file__).parent
    sources = {path.name: digest_file(path)[0] for path in sorted(folder.glob("*.py"))}
    return digest_json(sources | {name: metadata.version(name) for name in ("numpy", "scipy")})
