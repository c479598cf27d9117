"""Pictures of digits as files: .npz shards by script, and the manifest of a calibration set.

Everything is made in memory first and then placed file by file, so that a run that fails leaves nothing behind and a
reader never sees half a file.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

COLLECTED = {"from": dt.date(2026, 11, 21), "to": dt.date(2026, 11, 21)}
"""Day on which the shipped sets were made. Fixed, so that a rerun gives the same bytes; move it with the generator."""

MAX_AGE_DAYS = 365


@dataclass(frozen=True)
class Sample:
    """One picture, float32 [height, width], with the class that it shows and its script."""

    image: NDArray[np.float32]
    label: int
    script: str


def stack(samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Return ``image``, float32 [samples, 1, height, width]."""
    return np.stack([sample.image for sample in samples])[:, None]


def make_shards(samples: Sequence[Sample], *, with_label: bool) -> dict[str, bytes]:
    """Return the .npz shards by file name, one for each script that occurs.

    Arrays: ``image`` float32 [n, 1, height, width], ``slice.script`` text [n] and, if asked for, ``label`` int64 [n],
    the class.
    """
    files = {}
    for script in sorted({sample.script for sample in samples}):
        group = [sample for sample in samples if sample.script == script]
        arrays: dict[str, NDArray[Any]] = {
            "image": stack(group),
            "slice.script": np.array([sample.script for sample in group]),
        }
        if with_label:
            arrays["label"] = np.array([sample.label for sample in group], dtype=np.int64)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        files[f"pictures-{script}.npz"] = buffer.getvalue()
    return files


def make_manifest(name: str, files: Mapping[str, bytes], samples: Sequence[Sample], source: str) -> bytes:
    """Return the ``manifest.yaml`` of a calibration set ``name`` of these shards, UTF-8."""
    scripts = Counter(sample.script for sample in samples)
    entries = []
    for path, content in sorted(files.items()):
        with np.load(io.BytesIO(content), allow_pickle=False) as shard:
            count = int(shard["image"].shape[0])
        entries.append({"path": path, "samples": count, "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {
        "name": name,
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 1, *samples[0].image.shape]}},
        "source": source,
        "collected": COLLECTED,
        "samples": len(samples),
        "files": entries,
        "strata": {"script": {script: scripts[script] for script in sorted(scripts)}},
        "max_age_days": MAX_AGE_DAYS,
        "resembles": "../../examples/digit_reader/validation",
    }
    return yaml.safe_dump(manifest, sort_keys=False, width=120).encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name holds either what it held before or all of ``content``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        staged.chmod(0o644)  # mkstemp makes files that only their owner can read
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def place(files: Mapping[str, bytes], folder: Path) -> None:
    """Write ``files`` into ``folder`` and remove the shards of an earlier run that they do not replace."""
    for name, content in files.items():
        write_atomically(folder / name, content)
    for stale in set(folder.glob("pictures-*.npz")) - {folder / name for name in files}:
        stale.unlink()
