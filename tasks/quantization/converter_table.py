"""The converters by precision and method, with all that decides what they make: a recipe says it, and a cache key."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tasks.errors import StageError
from tasks.model.toolchain import package_versions
from tasks.quantization.interface import (
    AUTOCAST_DATA_MAX,
    BFLOAT16_MAX,
    CALIBRATION_BATCH,
    HISTOGRAM_BINS,
    PERCENTILE,
    QUANTIZED_BINS,
)
from tasks.quantization.range_samples import RANGE_SAMPLES
from tasks.quantization.trials import METHODS
from tasks.specs import CalibrationMethod, Precision


@dataclass(frozen=True)
class Converter:
    """A converter: its name in recipes, its module in tasks.quantization, the packages and parameters that decide.

    `function` of the module serves a ConvertRequest.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    parameters: dict[str, object]
    function: str = "convert"

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
    Converter(
        "modelopt-autocast",
        "autocast",
        _MODELOPT,
        {"keep_io_types": True, "data_max": AUTOCAST_DATA_MAX, "range_samples": RANGE_SAMPLES},
    ),
    Converter("onnxconverter-float16", "float16", ("onnxconverter-common", "onnx"), {"keep_io_types": True}),
)
BF16 = Converter(
    "modelopt-autocast",
    "autocast",
    _MODELOPT,
    {"keep_io_types": True, "data_max": BFLOAT16_MAX, "type": "bf16"},
    "convert_to_bfloat16",
)
FP8 = Converter(
    "modelopt-fp8",
    "modelopt_fp8",
    _MODELOPT,
    {
        "method": CalibrationMethod.MAX.value,
        "batch": CALIBRATION_BATCH,
        "high_precision": "fp16",
        "data_max": AUTOCAST_DATA_MAX,
        "range_samples": RANGE_SAMPLES,
    },
)


def converters_for(precision: Precision, method: CalibrationMethod | None) -> tuple[Converter, ...]:
    """The converters of a precision, in the order in which they are tried. FP32 needs none.

    Those of `auto` are one for each method that is tried: `max` only where ModelOpt is installed.
    """
    if precision is Precision.FP32:
        return ()
    if precision is Precision.FP16:
        return tuple(converter for converter in FP16 if converter.is_installed()) or FP16
    if precision in {Precision.BF16, Precision.FP8}:
        return (BF16 if precision is Precision.BF16 else FP8,)
    assert method is not None  # noqa: S101 - convert_precision refuses INT8 without calibration
    if method is CalibrationMethod.AUTO:
        return tuple(int8_converter(each) for each in tried_methods())
    return (int8_converter(method),)


def tried_methods() -> tuple[CalibrationMethod, ...]:
    """The methods that `auto` tries, in the order in which they win where they are equal."""
    return tuple(
        method
        for method in METHODS
        if method is not CalibrationMethod.MAX or int8_converter(CalibrationMethod.MAX).is_installed()
    )


def int8_converter(method: CalibrationMethod) -> Converter:
    """The converter that serves a method, which is not `auto`."""
    shared: dict[str, object] = {"method": method.value, "batch": CALIBRATION_BATCH}
    if method is CalibrationMethod.MAX:
        return Converter("modelopt-int8", "modelopt_int8", _MODELOPT, {**shared, "high_precision": "fp32"})
    parameters = {**shared, **_HISTOGRAM[method], "per_channel": True, "symmetric": True}
    return Converter("onnxruntime-int8", "ort_int8", ("onnxruntime", "onnx"), parameters)
