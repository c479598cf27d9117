"""Makes model directories and data out of the sources beside this file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from tasks.model.model_directory import ModelDirectory, read_model_directory
from tasks.model.set_manifest import LEAST_SAMPLES
from tasks.records import DataArtifact
from tasks.samples.npz import save_shard
from tests.sets import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.samples.npz import Arrays
    from tasks.store.interface import ArtifactStore

SOURCES = Path(__file__).parent

SPECS: dict[str, dict[str, Any]] = {
    "mlp": {
        "inputs": {"features": {"dtype": "float32", "shape": ["batch", 24]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 9}},
        "outputs": {"score": {"kind": "score", "range": [0, 1]}, "traits": {"kind": "score", "range": [0, 1]}},
    },
    "encoder": {
        "inputs": {
            "input_ids": {"dtype": "int64", "shape": ["batch", "sequence"]},
            "attention_mask": {"dtype": "int64", "shape": ["batch", "sequence"]},
        },
        "dims": {"batch": {"min": 1, "opt": 4, "max": 8}, "sequence": {"min": 4, "opt": 16, "max": 40}},
        "outputs": {"score": {"kind": "score", "range": [0, 1]}},
    },
    "cnn": {
        "inputs": {"images": {"dtype": "float32", "shape": ["batch", 3, "height", 20]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 6}, "height": {"min": 20, "opt": 20, "max": 20}},
        "outputs": {"logits": {"kind": "logits"}},
    },
    "rote": {
        "inputs": {"features": {"dtype": "float32", "shape": ["batch", 24]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 9}},
        "outputs": {"score": {"kind": "score", "range": [0, 1]}},
    },
    "names": {
        "inputs": {"features": {"dtype": "float32", "shape": ["batch", 24]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 9}},
        "outputs": {name: {"kind": "labels"} for name in ("level", "accept", "key")},
    },
    "broken": {
        "inputs": {"features": {"dtype": "float32", "shape": ["batch", 24]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 9}},
        "outputs": {"score": {"kind": "tensor"}},
    },
}


def write_directory(
    root: Path,
    model: str,
    *,
    build: str = "build",
    weights: Mapping[str, Any] | str | None = None,
    **changes: Any,
) -> ModelDirectory:
    """Write a model directory for `model` below `root` and read it; `changes` replace keys of its model.yaml."""
    folder = root / "model"
    folder.mkdir()
    (root / "calibration").mkdir()
    shutil.copy(SOURCES / f"{model}.py", folder)
    spec = {
        "name": model,
        "source": f"{model}.py:{build}",
        **SPECS[model],
        "targets": ["cpu"],
        "precisions": ["fp16", "int8"],
        "calibration": {"set": "../calibration", "method": "minmax"},
        "validation": {"data": "validation.npz"},
        **changes,
    }
    if isinstance(weights, str):
        spec["weights"] = weights
    elif weights is not None:
        from safetensors.torch import save_file  # noqa: PLC0415 - needs torch, which few of these tests want

        spec["weights"] = "weights.safetensors"
        save_file(dict(weights), folder / "weights.safetensors")
    (folder / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    np.savez(folder / "validation.npz", nothing=np.zeros(1))
    np.savez(root / "calibration" / "set.npz", nothing=np.zeros(LEAST_SAMPLES))
    describe(root / "calibration", {"nothing": {"dtype": "float64", "shape": ["batch"]}})
    return read_model_directory(folder)


def store_shards(store: ArtifactStore, shards: Sequence[Arrays]) -> DataArtifact:
    """Put shards into the store as the ingest stage would, without labels."""
    with store.scratch() as folder:
        for kind in ("inputs", "annotations"):
            (folder / kind).mkdir()
        for number, shard in enumerate(shards):
            save_shard(folder / "inputs", number, shard)
            save_shard(folder / "annotations", number, {})
        return DataArtifact(
            inputs=store.put(folder / "inputs"),
            annotations=store.put(folder / "annotations"),
            samples=sum(len(next(iter(shard.values()))) for shard in shards),
            slices=(),
        )


def make_features(samples: int = 12, seed: int = 0) -> Arrays:
    """Samples of the perceptron."""
    return {"features": np.random.default_rng(seed).standard_normal((samples, 24)).astype(np.float32)}


def make_images(samples: int = 8) -> Arrays:
    """Samples of the convolutional network."""
    return {"images": np.random.default_rng(0).standard_normal((samples, 3, 20, 20)).astype(np.float32)}


def make_texts(samples: int, sequence: int, seed: int = 0) -> Arrays:
    """Samples of the encoder: token ids and a mask that leaves at least two tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, sequence + 1, samples)
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    return {"input_ids": generator.integers(0, 64, (samples, sequence)) * mask, "attention_mask": mask}
