"""Remarks on what converts a model on this host: torch for the export, and a converter for each precision."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from tasks.checks.remarks import Level, Remark, good
from tasks.model.toolchain import how_to_install
from tasks.quantization.converter_table import converters_for
from tasks.sources import source_of
from tasks.specs import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.specs import ModelSpec

SUBJECT = "precisions"
EXPORT = "pip install '.[export]'"


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
    return good(SUBJECT, f"{precision.value}: {names}")


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
