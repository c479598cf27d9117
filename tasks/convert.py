"""Stage 2: exported ONNX to a strongly typed ONNX of one precision.

Every converter runs in a child process, and what it made is loaded and run in another one before it is stored: a
converted graph can crash ONNX Runtime while it loads. The order of converters is a table here; FP16 has a fallback,
INT8 has none, since its method is the user's choice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks import onnx_files
from tasks.child import call_in_child
from tasks.converters.interface import (
    AUTOCAST_DATA_MAX,
    CALIBRATION_BATCH,
    HISTOGRAM_BINS,
    PERCENTILE,
    QUANTIZED_BINS,
    CheckTypedReply,
    CheckTypedRequest,
    ConvertReply,
    ConvertRequest,
)
from tasks.errors import InputError, StageError
from tasks.memo import Remembered, remember
from tasks.module_source import package_versions
from tasks.records import TypedModel
from tasks.specs import CalibrationMethod, Precision

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import DataArtifact, ExportedModel
    from tasks.specs import ModelSpec
    from tasks.workbench import Workbench

RECIPE = 1


@dataclass(frozen=True)
class Converter:
    """A converter: its name in recipes, its module below tasks.converters, the packages and parameters that decide."""

    name: str
    module: str
    packages: tuple[str, ...]
    parameters: dict[str, object]

    def is_installed(self) -> bool:
        """Whether all its packages are there."""
        try:
            package_versions(*self.packages)
        except StageError:
            return False
        return True

    def describe(self) -> dict[str, str]:
        """What a recipe says of it: name, versions and parameters."""
        versions = package_versions(*self.packages)
        del versions["python"]
        return {
            "converter": self.name,
            "version": " ".join(f"{name} {version}" for name, version in versions.items()),
            "parameters": json.dumps(self.parameters, sort_keys=True),
        }


_MODELOPT = ("nvidia-modelopt", "onnx", "onnx-graphsurgeon", "onnxruntime")
_HISTOGRAM: dict[CalibrationMethod, dict[str, object]] = {
    CalibrationMethod.MINMAX: {},
    CalibrationMethod.ENTROPY: {"bins": HISTOGRAM_BINS, "quantized_bins": QUANTIZED_BINS},
    CalibrationMethod.PERCENTILE: {"bins": HISTOGRAM_BINS, "percentile": PERCENTILE},
}
FP16 = (
    Converter("modelopt-autocast", "autocast", _MODELOPT, {"keep_io_types": True, "data_max": AUTOCAST_DATA_MAX}),
    Converter("onnxconverter-float16", "float16", ("onnxconverter-common", "onnx"), {"keep_io_types": True}),
)


def converters_for(precision: Precision, method: CalibrationMethod | None) -> tuple[Converter, ...]:
    """The converters of a precision, in the order in which they are tried. FP32 needs none."""
    if precision is Precision.FP32:
        return ()
    if precision is Precision.FP16:
        return tuple(converter for converter in FP16 if converter.is_installed()) or FP16
    assert method is not None  # noqa: S101 - convert_precision refuses INT8 without calibration
    shared: dict[str, object] = {"method": method.value, "batch": CALIBRATION_BATCH}
    if method is CalibrationMethod.MAX:
        return (Converter("modelopt-int8", "modelopt_int8", _MODELOPT, {**shared, "high_precision": "fp32"}),)
    parameters = {**shared, **_HISTOGRAM[method], "per_channel": True, "symmetric": True}
    return (Converter("onnxruntime-int8", "ort_int8", ("onnxruntime", "onnx"), parameters),)


def convert_precision(
    bench: Workbench,
    exported: ExportedModel,
    precision: Precision,
    spec: ModelSpec,
    calibration: DataArtifact | None,
) -> Remembered[TypedModel]:
    """Convert an exported model to `precision`; inputs and outputs keep their names and types.

    FP32 is the exported graph itself, and so is INT8 of a graph that already holds Q/DQ nodes.

    Raises:
        InputError: INT8 is asked for without a calibration set.
        StageError: no converter gave a graph that ONNX Runtime loads and runs.
    """
    int8 = precision is Precision.INT8
    if int8 and (calibration is None or spec.calibration is None):
        raise InputError("model.yaml: calibration: missing, and precision int8 needs it; name a calibration set")
    method = spec.calibration.method if int8 and spec.calibration is not None else None
    job = _Conversion(bench, exported, precision, spec, calibration if int8 else None, method)
    return remember(bench.store, "convert", job.key(), TypedModel, job.run)


@dataclass(frozen=True)
class _Conversion:
    """One call of `convert_precision`."""

    bench: Workbench
    exported: ExportedModel
    precision: Precision
    spec: ModelSpec
    calibration: DataArtifact | None
    method: CalibrationMethod | None

    def key(self) -> dict[str, object]:
        return {
            "recipe": RECIPE,
            "onnx": self.exported.onnx.digest,
            "precision": self.precision.value,
            "inputs": {name: tensor.model_dump(mode="json") for name, tensor in self.spec.inputs.items()},
            "dims": {name: dim.model_dump() for name, dim in self.spec.dims.items()},
            "calibration": None if self.calibration is None else self.calibration.inputs.digest,
            "converters": [converter.describe() for converter in converters_for(self.precision, self.method)],
            "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
        }

    def run(self) -> TypedModel:
        if self.precision is Precision.FP32:
            return self._untouched("the exported model is FP32")
        with self.bench.store.scratch() as folder:
            onnx = onnx_files.fetched_model(self.bench.store.fetch(self.exported.onnx, folder / "onnx"))
            if self.precision is Precision.INT8 and onnx_files.holds_quantization(onnx):
                return self._untouched("the model was quantized in training: it already holds Q/DQ nodes")
            if self.calibration is not None:
                self.bench.store.fetch(self.calibration.inputs, folder / "samples")
            return self._first_that_works(folder, onnx)

    def _untouched(self, reason: str) -> TypedModel:
        recipe = {"converter": "none", "reason": reason}
        return TypedModel(onnx=self.exported.onnx, precision=self.precision, recipe=recipe)

    def _first_that_works(self, folder: Path, onnx: Path) -> TypedModel:
        failures: list[tuple[Converter, StageError]] = []
        for converter in converters_for(self.precision, self.method):
            try:
                recipe = self._convert_and_check(converter, folder, onnx)
            except StageError as error:
                failures.append((converter, error))
                continue
            for failed, cause in failures:
                recipe["instead_of"] = f"{failed.name}: {onnx_files.short_reason(cause)}"
            typed = self.bench.store.put(folder / converter.module / "result")
            return TypedModel(onnx=typed, precision=self.precision, recipe=recipe)
        raise self._failed(failures)

    def _convert_and_check(self, converter: Converter, folder: Path, onnx: Path) -> dict[str, str]:
        result = folder / converter.module / "result"
        result.mkdir(parents=True)
        samples = str(folder / "samples") if self.calibration is not None else None
        reply = call_in_child(
            f"tasks.converters.{converter.module}:convert",
            ConvertRequest(
                onnx=str(onnx),
                output=str(result),
                inputs=self.spec.inputs,
                dims=self.spec.dims,
                batch_dim=self.spec.batch_dim,
                external_bytes=onnx_files.EXTERNAL_DATA_BYTES,
                samples=samples,
                method=self.method,
            ),
            ConvertReply,
            result.parent,
            time_limit_s=self.bench.time_limit_s,
            on_progress=self.bench.on_progress,
        )
        check = CheckTypedRequest(
            onnx=str(onnx_files.find_model(result)),
            original=str(onnx),
            inputs=self.spec.inputs,
            dims=self.spec.dims,
            samples=samples,
        )
        checked = call_in_child(
            "tasks.onnx_check:check_typed", check, CheckTypedReply, result.parent, time_limit_s=self.bench.time_limit_s
        )
        return {**converter.describe(), **reply.recipe, "opset": str(checked.opset)}

    def _failed(self, failures: list[tuple[Converter, StageError]]) -> StageError:
        causes = "\n".join(f"({n}) {c.name}: {cause}" for n, (c, cause) in enumerate(failures, start=1))
        if self.method is None:
            return StageError(f"convert: {self.precision.value} failed.\n{causes}")
        others = ", ".join(method.value for method in CalibrationMethod if method is not self.method)
        return StageError(
            f"convert: int8 by calibration.method {self.method.value} failed; try another method ({others}).\n{causes}"
        )
