"""Remarks on what converts a model on this host: torch for the export, and a converter for each precision."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from tasks.checks.remarks import Level, Remark, good
from tasks.model.toolchain import how_to_install
from tasks.quantization.converter_table import converters_for
from tasks.sources import source_of
from tasks.sources.safetensors_files import bfloat16_share
from tasks.specs import CalibrationMethod, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.specs import ModelSpec

SUBJECT = "precisions"
EXPORT = "pip install '.[export]'"
MOST = 0.5
"""Share of a model's numbers that must be bfloat16: norms are often kept in float32."""


def check_precisions(spec: ModelSpec, precisions: Sequence[Precision]) -> Iterator[Remark]:
    """Which packages export the module and make each precision, and which of them are missing here."""
    for package in source_of(spec.source).packages:
        if not _is_installed(package):
            yield Remark(
                SUBJECT,
                Level.STOP,
                f"package {package} is not installed, and the export needs it; {how_to_install(package)}",
            )
    for precision in precisions:
        yield _remark_on(spec, precision)


def _remark_on(spec: ModelSpec, precision: Precision) -> Remark:
    method = None if spec.calibration is None else spec.calibration.method
    if precision is Precision.INT8 and method is None:
        return good(SUBJECT, "int8: as model.yaml was read, it has a calibration set")  # model.yaml's own check told
    converters = converters_for(precision, method if precision is Precision.INT8 else None)
    installed = [converter.name for converter in converters if converter.is_installed()]
    if converters and not installed:
        lacks = sorted({name for one in converters for name in one.packages if not _is_installed(name)})
        text = f"{precision.value}: its converter lacks {', '.join(lacks)}; {EXPORT}, or choose another --precision"
        return Remark(SUBJECT, Level.STOP, text)
    names = ", else ".join(dict.fromkeys(installed)) or "the exported graph itself"
    if precision is Precision.FP8 and method is not CalibrationMethod.MAX:
        names += ", whose method is max whatever calibration.method is for int8"
    return good(SUBJECT, f"{precision.value}: {names}")


def check_trained_in_bfloat16(directory: ModelDirectory) -> Iterator[Remark]:
    """Whether most of the reference's own weights are bfloat16, without which a BF16 engine only loses precision."""
    remedy = "write fp16 instead, which rounds an eighth as far"
    files = _weight_files(directory)
    if not files:
        text = f"bf16: is for models that were trained in it, which only safetensors weights show; {remedy}"
        yield Remark(SUBJECT, Level.STOP, f"model.yaml: precisions: {text}")
        return
    share = bfloat16_share(files)
    if share > MOST:
        yield good(SUBJECT, f"bf16: {100 * share:.0f} % of the weights are bfloat16")
        return
    text = f"bf16: is for models that were trained in it, and {100 * share:.0f} % of the weights are bfloat16; {remedy}"
    yield Remark(SUBJECT, Level.STOP, f"model.yaml: precisions: {text}")


def _weight_files(directory: ModelDirectory) -> list[Path]:
    if directory.weights is not None:
        return [directory.weights]
    root = directory.source_path
    return sorted(root.glob("*.safetensors")) if root is not None and root.is_dir() else []


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
