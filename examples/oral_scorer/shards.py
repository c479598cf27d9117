"""Clips as files: .npz shards by number of frames, and the manifest of a calibration set.

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

BUCKETS = (100, 200, 300, 400, 600)
"""Frames of the shards; a clip goes into the shortest that holds it."""

COLLECTED = {"from": dt.date(2026, 11, 21), "to": dt.date(2026, 11, 21)}
"""Day on which the shipped set was made. Fixed, so that a rerun gives the same bytes; move it with the generator."""

MAX_AGE_DAYS = 365


@dataclass(frozen=True)
class Sample:
    """Features of one clip without padding, float32 [frames, 80], with overall score, level and noise condition."""

    mel: NDArray[np.float32]
    label: float
    level: int
    noise: str


def pad(samples: Sequence[Sample], frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``mel`` float32 [samples, frames, 80] and ``mask`` float32 [samples, frames], zeros after the end."""
    mel = np.zeros((len(samples), frames, samples[0].mel.shape[1]), dtype=np.float32)
    mask = np.zeros((len(samples), frames), dtype=np.float32)
    for row, sample in enumerate(samples):
        mel[row, : len(sample.mel)] = sample.mel
        mask[row, : len(sample.mel)] = 1.0
    return mel, mask


def make_shards(samples: Sequence[Sample], *, with_label: bool) -> dict[str, bytes]:
    """Return the .npz shards by file name, one for each number of frames that occurs.

    Arrays: ``mel`` float32 [n, frames, 80], ``mask`` float32 [n, frames], ``slice.level`` int64 [n], ``slice.noise``
    text [n] and, if asked for, ``label`` float32 [n], the overall score.
    """
    members: dict[int, list[Sample]] = {}
    for sample in samples:
        members.setdefault(next(size for size in BUCKETS if size >= len(sample.mel)), []).append(sample)
    files = {}
    for frames, group in sorted(members.items()):
        mel, mask = pad(group, frames)
        arrays: dict[str, NDArray[Any]] = {
            "mel": mel,
            "mask": mask,
            "slice.level": np.array([sample.level for sample in group], dtype=np.int64),
            "slice.noise": np.array([sample.noise for sample in group]),
        }
        if with_label:
            arrays["label"] = np.array([sample.label for sample in group], dtype=np.float32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        files[f"frames-{frames}.npz"] = buffer.getvalue()
    return files


def make_manifest(files: Mapping[str, bytes], samples: Sequence[Sample], source: str, name: str = "oral") -> bytes:
    """Return the ``manifest.yaml`` of a calibration set ``name`` of these shards, UTF-8."""
    levels = Counter(sample.level for sample in samples)
    noises = Counter(sample.noise for sample in samples)
    entries = []
    for path, content in sorted(files.items()):
        with np.load(io.BytesIO(content), allow_pickle=False) as shard:
            count = int(shard["mel"].shape[0])
        entries.append({"path": path, "samples": count, "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {
        "name": name,
        "inputs": {
            "mel": {"dtype": "float32", "shape": ["batch", "frames", samples[0].mel.shape[1]]},
            "mask": {"dtype": "float32", "shape": ["batch", "frames"]},
        },
        "source": source,
        "collected": COLLECTED,
        "samples": len(samples),
        "files": entries,
        "strata": {
            "level": {level: levels[level] for level in sorted(levels)},
            "noise": {noise: noises[noise] for noise in sorted(noises)},
        },
        "max_age_days": MAX_AGE_DAYS,
        "resembles": "../../examples/oral_scorer/validation",
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
    for stale in set(folder.glob("frames-*.npz")) - {folder / name for name in files}:
        stale.unlink()
