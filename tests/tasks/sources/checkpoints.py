"""Model directories whose source is a checkpoint of a tiny BERT with a head of three classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from tasks.model.model_directory import ModelDirectory, read_model_directory
from tasks.sources import source_of
from tasks.sources.interface import SOURCE_FOLDER, ModuleRequest
from tests.tasks.in_process import forgotten_imports

if TYPE_CHECKING:
    from pathlib import Path


ENCODER: dict[str, Any] = {
    "name": "intents",
    "inputs": {
        "input_ids": {"dtype": "int64", "shape": ["batch", "sequence"], "range": [0, 63]},
        "attention_mask": {"dtype": "int64", "shape": ["batch", "sequence"], "range": [0, 1]},
    },
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}, "sequence": {"min": 4, "opt": 8, "max": 16}},
    "outputs": {"logits": {"kind": "logits"}},
    "targets": ["cpu"],
    "precisions": ["fp32"],
    "validation": {"data": "validation.npz"},
}


def tiny_bert() -> Any:
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 - as above

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def write_directory(folder: Path, source: object, samples: int = 60, **changes: Any) -> ModelDirectory:
    """A model directory with random texts, whose model.yaml says `source`; read."""
    folder.mkdir(exist_ok=True)
    spec = {**ENCODER, "source": source, **changes}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 9, samples)
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    ids = generator.integers(1, 64, (samples, 8)) * mask
    np.savez(folder / "validation.npz", input_ids=ids, attention_mask=mask)
    return read_model_directory(folder)


def loaded(directory: ModelDirectory, folder: Path) -> Any:
    """The module that the source loads of what it lays out below `folder`."""
    source = source_of(directory.spec.source)
    source.lay_out(directory, folder, source.key(directory))
    with forgotten_imports(folder):
        return source.load(ModuleRequest(folder=folder / SOURCE_FOLDER, spec=directory.spec, weights=None))
