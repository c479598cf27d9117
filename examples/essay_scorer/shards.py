"""Encoded essays as files: .npz shards by sequence length, and the manifest of a calibration set.

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
from typing import TYPE_CHECKING

import numpy as np
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

BUCKETS = (32, 64, 96, 128, 160, 192, 224, 256)
"""Sequence lengths of the shards; an essay goes into the shortest that holds it."""

COLLECTED = {"from": dt.date(2026, 11, 20), "to": dt.date(2026, 11, 20)}
"""Day on which the shipped set was made. Fixed, so that a rerun gives the same bytes; move it with the generator."""

MAX_AGE_DAYS = 365


@dataclass(frozen=True)
class Sample:
    """Token ids of one essay without padding, with its level (1 to 6)."""

    ids: tuple[int, ...]
    level: int


def pad(samples: Sequence[Sample], length: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``input_ids`` and ``attention_mask``, int64 [samples, length], padded at the end."""
    ids = np.full((len(samples), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(samples), length), dtype=np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        mask[row, : len(sample.ids)] = 1
    return ids, mask


def make_shards(samples: Sequence[Sample], pad_id: int, *, with_label: bool) -> dict[str, bytes]:
    """Return the .npz shards by file name, one for each sequence length that occurs.

    Arrays: ``input_ids`` and ``attention_mask`` int64 [n, length], ``slice.level`` int64 [n] and, if asked for,
    ``label`` float32 [n], the level on a scale from 0 to 1.
    """
    members: dict[int, list[Sample]] = {}
    for sample in samples:
        members.setdefault(next(size for size in BUCKETS if size >= len(sample.ids)), []).append(sample)
    files = {}
    for length, group in sorted(members.items()):
        ids, mask = pad(group, length, pad_id)
        level = np.array([sample.level for sample in group], dtype=np.int64)
        arrays = {"input_ids": ids, "attention_mask": mask, "slice.level": level}
        if with_label:
            arrays["label"] = ((level - 1) / 5).astype(np.float32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        files[f"tokens-{length:03d}.npz"] = buffer.getvalue()
    return files


def make_manifest(files: Mapping[str, bytes], samples: Sequence[Sample], source: str, name: str = "essays") -> bytes:
    """Return the ``manifest.yaml`` of a calibration set ``name`` of these shards, UTF-8."""
    levels = Counter(sample.level for sample in samples)
    entries = []
    for path, content in sorted(files.items()):
        with np.load(io.BytesIO(content), allow_pickle=False) as shard:
            count = int(shard["input_ids"].shape[0])
        entries.append({"path": path, "samples": count, "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {
        "name": name,
        "inputs": {
            name: {"dtype": "int64", "shape": ["batch", "sequence"]} for name in ("input_ids", "attention_mask")
        },
        "source": source,
        "collected": COLLECTED,
        "samples": len(samples),
        "files": entries,
        "strata": {"level": {level: levels[level] for level in sorted(levels)}},
        "max_age_days": MAX_AGE_DAYS,
        "resembles": "../../examples/essay_scorer/validation",
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
    for stale in set(folder.glob("tokens-*.npz")) - {folder / name for name in files}:
        stale.unlink()
