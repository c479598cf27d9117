"""Whole ways from a model that is somewhere already to registered engines: one command each, no line written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from tests.flows.projects import REPOSITORY, RUN_LIMIT_S

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.end_to_end, pytest.mark.hardship(only=True)]

SAMPLES = 1000
TOPICS = {
    "pay": ["invoice", "refund", "charge"],
    "ship": ["parcel", "late", "box"],
    "account": ["login", "reset", "user"],
}
FILLER = ["please", "my", "the", "a", "is", "was", "why", "can", "you", "help", "with", "today", "again", "it", "not"]
PACKAGE = """
import torch

class Classes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))

    def forward(self, x, y):
        return self.layers(torch.cat([x, y, x * y], 1))

def build():
    torch.manual_seed(0)
    return Classes()
"""


class Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, y, x * y], 1))


class Both(NamedTuple):
    margin: torch.Tensor
    classes: torch.Tensor


class WithMargin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Classes()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Both:
        found = self.inner(x, y)
        return Both(found[:, 1] - found[:, 0], found)


class Fours(Classes):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(4, 8), y.reshape(4, 8))


def save_pairs(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, SAMPLES, 8)).astype(np.float32)
    np.savez(path, x=x, y=y, label=((x * y).sum(1) > 0).astype(np.int64))
    return torch.from_numpy(x[:4]), torch.from_numpy(y[:4])


def import_and_convert(folder: Path, source: str, data: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", "import", source, "--data", data, "--into", "made", "--convert",
         "--json"],
        env={**os.environ, "ENGINEGATE_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=folder, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    engines = document["conversion"]["engines"]
    found = {one["engine_id"].partition("@")[0]: (one["verdict"], one["registered"]) for one in engines}
    model = document["model"]
    assert found == {f"{model}-cpu-fp16": ("pass", True), f"{model}-cpu-int8": ("pass", True)}
    return document


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts of a topic, of which three words in ten are the topic's own."""
    rng = np.random.default_rng(seed)
    found = []
    for label in rng.choice(list(TOPICS), count).tolist():
        own = rng.random(rng.integers(4, 20, endpoint=True)) < 0.3
        others = [*FILLER, *TOPICS[str(rng.choice(list(TOPICS)))]]
        words = [str(rng.choice(TOPICS[label] if is_own else others)) for is_own in own]
        found.append({"text": " ".join(words), "label": label})
    return found


def save_intents(folder: Path) -> None:
    """A BERT of two layers, trained in seconds, in shards, with a tokenizer of whole words."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast  # noqa: PLC0415 - seconds

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *FILLER,
        *(word for topic in TOPICS.values() for word in topic),
    ]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}, model_max_length=64)
    names = list(TOPICS)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=64, initializer_range=0.08, id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    train = rows(1500, seed=1)
    for start in [*range(0, len(train), 32)] * 4:
        part = train[start : start + 32]
        batch = tokenizer([row["text"] for row in part], padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([names.index(row["label"]) for row in part])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)


def test_a_hugging_face_folder_and_texts(tmp_path: Path) -> None:
    save_intents(tmp_path / "intents")
    assert (tmp_path / "intents" / "model.safetensors.index.json").is_file()
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(SAMPLES, seed=0)))
    document = import_and_convert(tmp_path, "intents", "texts.jsonl")
    assert "logits: {kind: logits}" in document["model_yaml"]


@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_program_exported_by_place(tmp_path: Path, is_fixed: bool) -> None:
    example = save_pairs(tmp_path / "pairs.npz")
    torch.manual_seed(0)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(Classes().eval(), example, dynamic_shapes=None if is_fixed else (batch, batch))
    torch.export.save(program, tmp_path / "classes.pt2")
    document = import_and_convert(tmp_path, "classes.pt2", "pairs.npz")
    assert any("takes 4 samples a call and no other number" in note for note in document["notes"]) == is_fixed


@pytest.mark.parametrize("module", [WithMargin, Fours])
def test_torchscript_with_names_and_of_one_batch_size(tmp_path: Path, module: type[nn.Module]) -> None:
    example = save_pairs(tmp_path / "pairs.npz")
    torch.manual_seed(0)
    made = module().eval()
    scripted = torch.jit.script(made) if module is WithMargin else torch.jit.trace(made, example)
    scripted.save(str(tmp_path / "classes.pt"))
    document = import_and_convert(tmp_path, "classes.pt", "pairs.npz")
    assert ("margin: {kind: score}" in document["model_yaml"]) == (module is WithMargin)


def test_an_alias_of_mlflow_and_a_callable_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pytorch  # noqa: PLC0415 - takes seconds

    save_pairs(tmp_path / "pairs.npz")
    (tmp_path / "own_pairs.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    from own_pairs import build  # noqa: PLC0415 - it lies there now

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.pytorch.save_model(
        build().eval(), tmp_path / "logged", code_paths=[str(tmp_path / "own_pairs.py")], pip_requirements=["torch"],
        serialization_format="pickle",
    )  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=address)
    client.create_registered_model("pairs")
    client.create_model_version("pairs", source=str(tmp_path / "logged"))
    client.set_registered_model_alias("pairs", "champion", "1")
    import_and_convert(tmp_path, "models:/pairs@champion", "pairs.npz", MLFLOW_TRACKING_URI=address)
    (tmp_path / "other").mkdir()
    save_pairs(tmp_path / "other" / "pairs.npz")
    import_and_convert(
        tmp_path / "other", "own_pairs:build", "pairs.npz", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{tmp_path}"
    )
