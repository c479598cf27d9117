"""Whole conversions, through the command line, of models that are somewhere already."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.flows.projects import REPOSITORY, RUN_LIMIT_S
from tests.tasks.sources.checkpoints import tiny_bert, write_directory
from tests.tasks.tiny import make_features, write_model_folder, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.end_to_end, pytest.mark.hardship(only=True)]


def convert(folder: Path) -> tuple[dict[str, Any], str]:
    environment = {**os.environ, "ENGINEGATE_HOME": str(folder.parent / "home"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", "convert", str(folder), "--json"],
        env=environment, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_hugging_face_folder_is_converted_and_an_incomplete_one_is_not(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "model" / "checkpoint", max_shard_size="8KB")
    write_directory(tmp_path / "model", {"huggingface": "checkpoint"}, samples=400)
    document, _ = convert(tmp_path / "model")
    assert [engine["verdict"] for engine in document["engines"]] == ["pass"]
    shutil.rmtree(tmp_path / "home")
    next((tmp_path / "model" / "checkpoint").glob("*-00002-*")).unlink()
    with pytest.raises(AssertionError, match=r"weight_map: names model-00002-of-\d+.safetensors"):
        convert(tmp_path / "model")


def test_an_onnx_file_is_converted_and_called_the_reference(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model")
    folder = write_model_folder(tmp_path / "model", source={"onnx": "model.onnx"})
    np.savez(folder / "validation.npz", features=make_features(1000))
    document, told = convert(folder)
    assert [engine["verdict"] for engine in document["engines"]] == ["pass"]
    assert "outputs of the ONNX file in FP32 on ONNX Runtime" in told
    assert "PyTorch" not in told
