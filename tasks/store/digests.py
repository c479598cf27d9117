"""SHA-256 of files, of JSON values and of artifacts; one way each, so that the same content has one name everywhere."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import validation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.records import ArtifactFile

CHUNK_BYTES = 1 << 20


def digest_file(path: Path) -> tuple[str, int]:
    """Return (`sha256:…`, size in bytes) of a file, read in chunks."""
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return f"sha256:{hasher.hexdigest()}", size


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no white space. NaN and infinities are refused: they compare unequal to themselves."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


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
