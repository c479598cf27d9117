"""Models as people bring them, each a kind of what an export once got wrong; up to the check on fresh inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import yaml

from tasks.errors import InputError, StageError
from tasks.model.model_directory import read_model_directory
from tasks.stages.export import export_onnx
from tasks.stages.fresh import run_fresh
from tasks.stages.ingest import ingest

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fresh_records import FreshArtifact
    from tasks.records import ExportedModel
    from tests.tasks.in_process import InProcess

Arrays = dict[str, np.ndarray[Any, Any]]
TORCHSCRIPT = {"exporter": "torchscript", "opset": 17}  # traces in a fraction of dynamo's time
OPSET17 = {"exporter": "dynamo", "opset": 17}
BATCH = {"min": 1, "opt": 4, "max": 8}
TIME = {"min": 4, "opt": 16, "max": 32}
HEAD = """
import torch
from torch import nn
def build():
    return Model()
class Model(nn.Module):
"""
RNG = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """A module's body, its inputs (dtype and shape), its data, and what else model.yaml says."""

    body: str
    inputs: dict[str, Any]
    data: Arrays
    outputs: tuple[str, ...] = ("y",)
    export: dict[str, Any] | None = None
    dims: dict[str, Any] | None = None


def floats(*shape: int | str) -> dict[str, Any]:
    return {"dtype": "float32", "shape": list(shape)}


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def convert(here: InProcess, folder: Path, case: Case) -> tuple[ExportedModel, FreshArtifact]:
    spec = {
        "name": "user",
        "source": "model.py:build",
        "inputs": case.inputs,
        "dims": {"batch": BATCH, **(case.dims or {})},
        "outputs": {name: {"kind": "tensor"} for name in case.outputs},
        "targets": ["cpu"],
        "precisions": ["fp32"],
        "validation": {"data": "data.npz"},
        "export": case.export or TORCHSCRIPT,
    }
    model = folder / "model"
    model.mkdir()
    (model / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (model / "model.py").write_text(HEAD + case.body)
    np.savez(model / "data.npz", **case.data)
    directory = read_model_directory(model)
    data = ingest(here, directory.spec, directory.validation, "validation.data").result
    exported = export_onnx(here, directory, data).result
    return exported, run_fresh(here, directory, data, exported).result


ROWS = {"x": floats("batch", 6)}
LENGTHS = {"x": floats("batch", "time", 3), "lengths": {"dtype": "int64", "shape": ["batch"]}}
SEQUENCES: Arrays = {"x": normal(24, 16, 3), "lengths": np.arange(24) % 13 + 4}
RIGHT = {
    "in place": Case("    def forward(self, x):\n        x /= 255\n        return x.relu()", ROWS, {"x": normal(9, 6)}),
    "extra outputs": Case(
        "    def forward(self, x):\n        return {'h': x, 'y': x.relu(), 'loss': None}", ROWS, {"x": normal(9, 6)}
    ),
    "switches": Case(
        "    def forward(self, x, use_cache=True, return_dict=None):\n"
        "        found = {'cache': object()} if use_cache else {}\n"
        "        return {**found, 'y': x.relu()} if return_dict else (object(), x)",
        ROWS,
        {"x": normal(9, 6)},
    ),
    "lengths": Case(
        "    def forward(self, x, lengths):\n        return x[torch.arange(x.shape[0]), lengths - 1]",
        LENGTHS,
        SEQUENCES,
        dims={"time": TIME},
    ),
    "scalar": Case(
        "    def forward(self, x, scale):\n        return x.softmax(-1) * scale",
        {**ROWS, "scale": floats()},
        {"x": normal(9, 6), "scale": np.tile(np.float32([0.5, 2, 1]), 3)},
    ),
    "sequence first": Case(
        "    def __init__(self):\n        super().__init__()\n        self.rnn = nn.GRU(3, 5)\n"
        "    def forward(self, x):\n        y, state = self.rnn(x)\n        return {'y': y, 'last': state[-1]}",
        {"x": floats("time", "batch", 3)},
        {"x": normal(24, 16, 3)},
        ("y", "last"),
        dims={"time": TIME},
    ),
    "multiples": Case(
        "    def __init__(self):\n        super().__init__()\n"
        "        self.down, self.up = nn.Conv1d(1, 2, 2, 2), nn.ConvTranspose1d(2, 1, 2, 2)\n"
        "    def forward(self, x):\n        return x + self.up(self.down(x))",
        {"x": floats("batch", 1, "time")},
        {"x": normal(9, 1, 16)},
        dims={"time": {**TIME, "multiple_of": 2}},
    ),
    "name of an operator, opset 17": Case(
        "    def forward(self, cat):\n        return {'mean': cat.mean(1).relu(), 'softmax': cat.softmax(1).flip(1)}",
        {"cat": floats("batch", 6)},
        {"cat": normal(9, 6)},
        ("softmax", "mean"),
        OPSET17,
    ),
    "packed": Case(
        "    def __init__(self):\n        super().__init__()\n"
        "        self.rnn = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)\n"
        "    def forward(self, x, lengths):\n"
        "        rnn = nn.utils.rnn\n"
        "        packed = rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)\n"
        "        y, (state, cells) = self.rnn(packed)\n"
        "        y, _ = rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])\n"
        "        return {'y': y, 'state': state[-1], 'cells': cells[0]}",
        LENGTHS,
        SEQUENCES,
        ("y", "state", "cells"),
        {"exporter": "dynamo", "opset": 20},
        {"time": TIME},
    ),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_model_of_this_kind_is_exported_right(here: InProcess, tmp_path: Path, kind: str) -> None:
    case = RIGHT[kind]
    exported, fresh = convert(here, tmp_path, case)
    assert max(exported.checks.values()) < 1e-5
    assert fresh.difference < 1e-5
    assert fresh.refused == ()
    graph = onnx.load(here.store.fetch(exported.onnx, tmp_path / "out") / "model.onnx").graph
    assert [value.name for value in graph.input] == list(case.inputs)
    assert [value.name for value in graph.output] == list(case.outputs)


def test_outputs_that_are_left_out_are_recorded(here: InProcess, tmp_path: Path) -> None:
    exported, _ = convert(here, tmp_path, RIGHT["extra outputs"])
    assert exported.recipe["outputs left out"] == "h [5, 6], loss (NoneType)"


KEEPS = "    last = None\n    def forward(self, x):\n        {}\n"
WRONG = {
    "random": (InputError, KEEPS.format("return x + torch.randn_like(x)"), "draws random numbers at inference"),
    "last call": (
        InputError,
        KEEPS.format("before, self.last = self.last, x.mean()\n        return x if before is None else x - before"),
        r"keeps something .*\(last changed\)",
    ),
    "first call": (
        InputError,
        KEEPS.format("self.last = self.last or x.mean().item()\n        return x - self.last"),
        "keeps what its first call saw",
    ),
    "ties": (
        StageError,
        KEEPS.format("return x.round().clamp(0, 1).topk(3).indices"),
        "The cause is a tie: of what TopK ranks for output y",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_module_that_cannot_be_exported_is_told_the_cause(here: InProcess, tmp_path: Path, kind: str) -> None:
    error, body, cause = WRONG[kind]
    with pytest.raises(error, match=cause) as caught:
        convert(here, tmp_path, Case(body, ROWS, {"x": normal(40, 6)}))
    assert "exporter: dynamo" not in str(caught.value)
