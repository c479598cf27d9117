"""Which layers INT8 hurts most: each is quantized alone, and its loss measured against the exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.declared import Frozen
from tasks.errors import InputError, StageError
from tasks.graphs import onnx_files
from tasks.quantization.converter_table import int8_converter
from tasks.quantization.interface import ConvertRequest
from tasks.quantization.loss import Loss, RuleLoss, loss_key
from tasks.specs import CalibrationMethod, ModelSpec
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, ExportedModel

RECIPE = 1
SENSITIVITY_SAMPLES = 128


class LayerSensitivity(Frozen):
    """A layer, and the loss of the graph in which it alone is quantized, with the residual addition fused into it.

    `node` is the name that `convert_precision` takes in `exclude`. `loss` is the share used up of what the limits of
    the default policy allow, 1 at a limit and None where it is infinite; `mean_loss` is the mean over rules. `worst` is
    the rule that the loss is of; None where no rule could be judged.
    """

    node: str
    op_type: str
    loss: float | None
    mean_loss: float | None
    worst: RuleLoss | None

    @classmethod
    def of(cls, node: str, op_type: str, loss: Loss) -> LayerSensitivity:
        """The layer whose graph has this loss."""
        mean = loss.rank[1]
        return cls(
            node=node,
            op_type=op_type,
            loss=loss.loss,
            mean_loss=mean if mean < float("inf") else None,
            worst=loss.rules[0] if loss.rules else None,
        )


class Sensitivity(Frozen):
    """All layers that INT8 quantizes, the worst first, measured on `samples` of the validation data.

    `method` found the ranges, in ONNX Runtime; for calibration method `max` it is `minmax`, which has the same ranges.
    """

    layers: tuple[LayerSensitivity, ...]
    samples: int
    method: CalibrationMethod

    @property
    def ranked(self) -> tuple[str, ...]:
        """The names of the layers, the worst first."""
        return tuple(layer.node for layer in self.layers)


class SensitivityRequest(Frozen):
    """What the child measures; `conversion` has the graph and the calibration samples, `data` the validation inputs."""

    conversion: ConvertRequest
    data: Path
    most_samples: int = SENSITIVITY_SAMPLES


def rank_layers(layers: Iterable[LayerSensitivity]) -> tuple[LayerSensitivity, ...]:
    """The layers, the largest loss first; of equals the larger mean, then the earlier in the graph."""

    def rank(layer: LayerSensitivity) -> tuple[float, float]:
        return tuple(float("-inf") if loss is None else -loss for loss in (layer.loss, layer.mean_loss))  # type: ignore[return-value]

    return tuple(sorted(layers, key=rank))


def measure_sensitivity(
    context: StageContext,
    exported: ExportedModel,
    spec: ModelSpec,
    calibration: DataArtifact,
    data: DataArtifact,
    *,
    method: CalibrationMethod | None = None,
) -> StageResult[Sensitivity]:
    """Quantize each layer alone and rank all by their loss, on at most 128 samples taken evenly from `data`.

    Args:
        context: the stage's surroundings.
        exported: the exported model, against which losses are measured.
        spec: the model; its calibration method finds the ranges.
        calibration: the calibration set.
        data: the validation data.
        method: the method, if not that of `spec`: the one that `auto` chose. For `auto` itself, `minmax`.

    Raises:
        InputError: the model names no calibration set.
        StageError: the graph has nothing to quantize, or was quantized in training, or ONNX Runtime failed.
    """
    if spec.calibration is None:
        raise InputError("model.yaml: calibration: missing, and int8 needs it; name a calibration set")
    method = method or spec.calibration.method
    if method in {CalibrationMethod.MAX, CalibrationMethod.AUTO}:
        method = CalibrationMethod.MINMAX
    key: dict[str, object] = {
        "recipe": RECIPE,
        "onnx": exported.onnx.digest,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "calibration": calibration.inputs.digest,
        "data": data.inputs.digest,
        "samples": SENSITIVITY_SAMPLES,
        "converter": int8_converter(method).describe(),
        "loss": loss_key(spec.outputs),
        "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
    }

    def produce(folder: Path) -> Sensitivity:
        conversion = ConvertRequest(
            onnx=_fetch_graph(context, exported, folder / "onnx"),
            output=folder / "result",
            spec=spec,
            external_bytes=onnx_files.EXTERNAL_DATA_BYTES,
            samples=context.store.fetch(calibration.inputs, folder / "samples"),
            method=method,
        )
        request = SensitivityRequest(conversion=conversion, data=context.store.fetch(data.inputs, folder / "data"))
        return context.call_in_child("tasks.quantization.ort_sensitivity:measure", request, Sensitivity, folder)

    return run_cached(context.store, "sensitivity", key, Sensitivity, produce)


def _fetch_graph(context: StageContext, exported: ExportedModel, folder: Path) -> Path:
    onnx = onnx_files.fetched_model(context.store.fetch(exported.onnx, folder))
    if onnx_files.holds_quantization(onnx):
        raise StageError(
            "sensitivity: the model was quantized in training, so its layers cannot be quantized one by one; measure"
            " the model as it was before"
        )
    return onnx
