"""A model with an operation of its own, from model.yaml to its engines."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import RefusedError, StageError
from tasks.model.model_directory import ModelDirectory, read_model_directory
from tasks.specs import Precision
from tasks.stages.build import build_engine
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tests.tasks.noise_floor import LIBRARY
from tests.tasks.tiny import job, make_features, put_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tasks.in_process import InProcess

    WriteModel = Callable[..., Path]

MODULE = """
import torch
from examples.alarm_sounds.model import noise_floor

class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(4, 32), torch.nn.Linear(32, 32)

    def forward(self, features):
        above = features - noise_floor(features, 0.25, 0.5)
        return torch.sigmoid(self.second(torch.relu(self.first(above))).mean(-1))

build = Module
"""
FILE = f"plugins/{LIBRARY.name}"


def directory_of(
    write_model: WriteModel, library: bytes | None = LIBRARY.read_bytes(), **changes: Any
) -> ModelDirectory:
    """A model directory whose module needs the library, which None leaves out."""
    build = {} if library is None else {"build": {"onnxruntime_plugins": [LIBRARY.name]}}
    folder = write_model(
        export={"opset": 17}, calibration={"set": "../calibration", "method": "minmax"}, **build, **changes
    )
    (folder / "model.py").write_text(MODULE)
    if library is not None:
        (folder / LIBRARY.name).write_bytes(library)
    return read_model_directory(folder)


def test_an_export_holds_the_library_that_it_was_checked_with_and_another_library_is_another_export(
    here: InProcess, write_model: WriteModel
) -> None:
    first = export_onnx(here, directory_of(write_model)).result
    assert [file.path for file in first.onnx.files] == ["model.onnx", FILE]
    assert max(first.checks.values()) < 1e-6
    assert export_onnx(here, directory_of(write_model)).cached
    other = export_onnx(here, directory_of(write_model, LIBRARY.read_bytes() + b"\0"))
    assert not other.cached
    assert other.result.onnx.digest != first.onnx.digest


def test_an_operation_without_its_library_is_named_with_the_way_out(here: InProcess, write_model: WriteModel) -> None:
    with pytest.raises(StageError, match=r"Name the library that computes NoiseFloor under build.onnxruntime_plugins"):
        export_onnx(here, directory_of(write_model, None))


def test_the_library_goes_into_the_typed_graphs_and_the_engines_under_their_digest(
    here: InProcess, write_model: WriteModel, tmp_path: Path
) -> None:
    directory = directory_of(write_model)
    exported = export_onnx(here, directory).result
    samples = put_data(here.store, [{"features": make_features(64, seed=1)}])
    wanted = None
    for precision in (Precision.FP32, Precision.FP16, Precision.INT8):
        calibration = samples if precision is Precision.INT8 else None
        typed = convert_precision(here, exported, precision, directory.spec, calibration).result
        assert FILE in {file.path for file in typed.onnx.files}
        built = build_engine(here, job(here.store, typed, spec=directory.spec)).result
        assert [file.path for file in built.plan.files] == ["engine.onnx", FILE]
        engine = OnnxRuntimeBackend().load(here.store.fetch(built.plan, tmp_path / precision.value))
        found = engine.run({"features": make_features(5)})["score"]
        wanted = found if wanted is None else wanted
        np.testing.assert_allclose(found, wanted, atol=0.01)
    digest = sha256(LIBRARY.read_bytes()).hexdigest()
    blob = here.store.root / "blobs" / "sha256" / digest[:2] / digest[2:]
    blob.unlink()  # this process has the library open
    blob.write_bytes(b"another library")
    with pytest.raises(RefusedError, match=rf"{FILE} .*has digest"):
        here.store.fetch(built.plan, tmp_path / "again")
