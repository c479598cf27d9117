from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from tasks.checks.precision_checks import check_precisions
from tasks.checks.remarks import Level
from tasks.specs import Precision
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    import pytest

SPEC = tiny_spec(precisions=["fp32", "fp16", "int8"], calibration={"set": "x", "method": "max"})


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_each_precision_is_told_with_its_converters() -> None:
    remarks = list(check_precisions(SPEC, list(Precision)))
    assert {remark.level for remark in remarks} == {Level.GOOD}
    assert [remark.text for remark in remarks] == [
        "fp32: the exported graph itself",
        "fp16: modelopt-autocast, else onnxconverter-float16",
        "int8: modelopt-int8",
    ]


def test_a_precision_without_any_converter_stops_and_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nvidia-modelopt", "onnxconverter-common")
    fp32, fp16, int8 = check_precisions(SPEC, list(Precision))
    assert fp32.level is Level.GOOD
    assert (fp16.level, int8.level) == (Level.STOP, Level.STOP)
    assert fp16.text.startswith("fp16: its converter lacks nvidia-modelopt, onnxconverter-common; pip install")
    assert "another --precision" in int8.text


def test_without_torch_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    stops = [remark.text for remark in check_precisions(SPEC, [Precision.FP32]) if remark.level is Level.STOP]
    assert stops == ["package torch is not installed, and the export needs it; pip install '.[export]'"]
