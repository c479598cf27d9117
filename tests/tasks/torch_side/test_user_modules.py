"""A model directory whose modules are named as the product's, through the children that run its code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.declared import InputSpec
from tasks.errors import InputError
from tasks.process.child import Child
from tasks.samples.npz import load_arrays
from tasks.stages.benchmark import Turn, TurnReply
from tasks.stages.export import export_onnx
from tasks.stages.reference import run_reference
from tasks.torch_side.module_source import lay_out, module_key
from tests.tasks.child_entries import Answer
from tests.tasks.models.directories import make_features, store_shards, write_directory

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext

NAMES = ("tasks", "validation", "flows")
SOURCE = """
import tasks
import validation
from flows import MINE
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        import flows
        from tasks import MINE as tasks_own
        from validation import MINE as validation_own
        self.total = tasks.MINE + validation.MINE + MINE + tasks_own + validation_own + flows.MINE

    def forward(self, features):
        import tasks
        import validation
        from flows import MINE as flows_own
        return features[:, 0] * 0 + (self.total + tasks.MINE + validation.MINE + flows_own)

def build():
    return Model()
"""
TOTAL = 3 * (1 + 10 + 100)
# Both exporters, one each: dynamo's takes seconds.
EXPORTERS = {"modules": {"exporter": "dynamo"}, "packages": {"exporter": "torchscript", "opset": 17}}


@pytest.fixture(params=EXPORTERS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> ModelDirectory:
    """A model that imports modules of all three names, at its top, while it is built and when it is called."""
    export = EXPORTERS[request.param]
    found = write_directory(tmp_path, "mlp", outputs={"score": {"kind": "tensor"}}, export=export)
    (found.root / "mlp.py").write_text(SOURCE)
    for number, name in enumerate(NAMES):
        path = found.root / (f"{name}.py" if request.param == "modules" else f"{name}/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"MINE = {10**number}\n")
    return found


def test_a_model_with_the_products_names_is_run_and_exported(context: StageContext, directory: ModelDirectory) -> None:
    data = store_shards(context.store, [make_features(3)])
    outputs = run_reference(context, directory, data).result.outputs
    folder = context.store.fetch(outputs, directory.root.parent / "outputs")
    assert load_arrays(folder / "00000.npz")["score"].tolist() == [TOTAL] * 3
    assert max(export_onnx(context, directory, data).result.checks.values()) == 0


def test_a_model_with_the_products_names_is_timed_by_another_interpreter(
    tmp_path: Path, directory: ModelDirectory
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "00000.npz", **make_features(4))
    turn = Turn(
        target="cpu",
        runtime="onnxruntime",
        module=lay_out(directory, tmp_path / "module", module_key(directory)),
        data=tmp_path / "data",
        inputs={"features": InputSpec(dtype="float32", shape=("batch", 24))},
        extents={"batch": 4},
        seconds=0.0,
    )
    with Child("tasks.stages.benchmark:take_turn", tmp_path, python=python) as child:
        assert child.ask(turn, TurnReply, time_limit_s=60).latencies_ms


def test_a_model_without_such_a_module_is_told_that_there_is_none(context: StageContext, tmp_path: Path) -> None:
    found = write_directory(tmp_path, "mlp")
    (found.root / "mlp.py").write_text("def build():\n    import tasks\n")
    with pytest.raises(InputError, match=r"ModuleNotFoundError: No module named 'tasks' \(mlp.py, line 2\)"):
        run_reference(context, found, store_shards(context.store, [make_features(3)]))


def test_dynamo_traces_the_products_wrapper_under_its_own_name(tmp_path: Path) -> None:
    """As `torch.compile` does in a benchmark on a GPU."""
    found = write_directory(tmp_path, "mlp")
    request = lay_out(found, tmp_path / "module", module_key(found))
    with Child("tests.tasks.torch_side.dynamo_entries:compile_wrapper", tmp_path) as child:
        assert child.ask(request, Answer, time_limit_s=60).text == "1"
