from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.checks.precision_checks import check_precisions, check_trained_in_bfloat16
from tasks.checks.remarks import Level
from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.specs import Precision
from tests.tasks.tiny import tiny_spec, write_model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory

OLDER = [Precision.FP32, Precision.FP16, Precision.INT8]
SPEC = tiny_spec(precisions=["fp32", "fp16", "int8"], calibration={"set": "x", "method": "max"})


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_each_precision_is_told_with_its_converters() -> None:
    remarks = list(check_precisions(SPEC, OLDER))
    assert {remark.level for remark in remarks} == {Level.GOOD}
    assert [remark.text for remark in remarks] == [
        "fp32: the exported graph itself",
        "fp16: modelopt-autocast, else onnxconverter-float16",
        "int8: modelopt-int8",
    ]


def test_a_precision_without_any_converter_stops_and_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nvidia-modelopt", "onnxconverter-common")
    fp32, fp16, int8 = check_precisions(SPEC, OLDER)
    assert fp32.level is Level.GOOD
    assert (fp16.level, int8.level) == (Level.STOP, Level.STOP)
    assert fp16.text.startswith("fp16: its converter lacks nvidia-modelopt, onnxconverter-common; pip install")
    assert "another --precision" in int8.text


def test_fp8_says_that_the_method_of_int8_is_not_its_own() -> None:
    (remark,) = check_precisions(SPEC, [Precision.FP8])
    assert remark.text == "fp8: modelopt-fp8"
    entropy = tiny_spec(precisions=["int8", "fp8"], calibration={"set": "x", "method": "entropy"})
    (remark,) = check_precisions(entropy, [Precision.FP8])
    assert remark.text == "fp8: modelopt-fp8, whose method is max whatever calibration.method is for int8"


def directory_of(folder: Path, weights: dict[str, np.ndarray[Any, Any]] | None) -> ModelDirectory:
    changes = {} if weights is None else {"weights": "weights.safetensors"}
    model = write_model_folder(folder / "model", precisions=["bf16"], **changes)
    if weights is not None:
        save_file(weights, model / "weights.safetensors")
    return read_model_directory(model)


BRAIN, SINGLE = np.zeros((8, 8), ml_dtypes.bfloat16), np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("weights", "level", "words"),
    [
        ({"w": BRAIN, "norm": SINGLE}, Level.GOOD, "bf16: 89 % of the weights are bfloat16"),
        ({"w": BRAIN, "table": np.zeros(1000, np.int64)}, Level.GOOD, "bf16: 100 % of the weights are bfloat16"),
        ({"w": SINGLE}, Level.STOP, "trained in it, and 0 % of the weights are bfloat16; write fp16 instead"),
        ({"w": BRAIN, "more": np.zeros(64, np.float32)}, Level.STOP, "and 50 % of the weights are bfloat16"),
        (None, Level.STOP, "trained in it, which only safetensors weights show; write fp16 instead"),
    ],
)
def test_bf16_is_for_models_that_were_trained_in_it(
    tmp_path: Path, weights: dict[str, np.ndarray[Any, Any]] | None, level: Level, words: str
) -> None:
    (remark,) = check_trained_in_bfloat16(directory_of(tmp_path, weights))
    assert (remark.level, words in remark.text) == (level, True), remark


def test_the_shards_of_a_checkpoint_are_counted_together(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", precisions=["bf16"], source={"huggingface": "./checkpoint"})
    (model / "checkpoint").mkdir()
    for number, array in enumerate((BRAIN, SINGLE)):
        save_file({"w": array}, model / "checkpoint" / f"model-{number}.safetensors")
    (remark,) = check_trained_in_bfloat16(read_model_directory(model))
    assert remark.text == "bf16: 89 % of the weights are bfloat16"


def test_weights_that_broke_off_are_named(tmp_path: Path) -> None:
    directory = directory_of(tmp_path, {"w": BRAIN})
    assert directory.weights is not None
    directory.weights.write_bytes(directory.weights.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"weights.safetensors: is not a whole safetensors file: it has .* of .* bytes"
    ):
        list(check_trained_in_bfloat16(directory))


def test_without_torch_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    stops = [remark.text for remark in check_precisions(SPEC, [Precision.FP32]) if remark.level is Level.STOP]
    assert stops == ["package torch is not installed, and the export needs it; pip install '.[export]'"]
