"""Stage 2: exported ONNX to a strongly typed ONNX of one precision.

Every converter runs in a child process, and what it made is loaded and run in another one before it is stored, at every
shape at which the export was checked: a converted graph can crash ONNX Runtime while it loads, and dims are a promise.
`quantization.converter_table` has the order of converters; FP16
has a fallback, INT8 has none, since its method is the user's choice. Method `auto` has it chosen by trials.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError
from tasks.graphs import level, onnx_files
from tasks.graphs.custom_ops import copy_libraries
from tasks.graphs.interface import MOST_HALF_ERROR, CheckTypedRequest
from tasks.model.toolchain import RECIPES
from tasks.process.child import ignore_progress
from tasks.quantization.converter_table import Converter, converters_for, int8_converter, tried_methods
from tasks.quantization.interface import ConvertRequest
from tasks.quantization.loss import LOSS_SAMPLES, Loss, LossRequest, loss_key
from tasks.quantization.trials import (
    HELD_BACK,
    Trial,
    describe_trials,
    hold_back,
    part_of,
    rank_trials,
    with_reason,
)
from tasks.records import DataArtifact, ExportedModel, TypedModel
from tasks.specs import CalibrationMethod, ModelSpec, Precision
from tasks.stages.export import fetch_some
from tasks.stages.half_around import add_half
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext

NOTHING_TO_QUANTIZE = "there is nothing to quantize"  # a converter's words: no other method finds more


def convert_precision(
    context: StageContext,
    exported: ExportedModel,
    precision: Precision,
    spec: ModelSpec,
    calibration: DataArtifact | None,
    *,
    exclude: tuple[str, ...] = (),
    data: DataArtifact | None = None,
    half: bool = False,
) -> StageResult[TypedModel]:
    """Convert an exported model to `precision`; inputs and outputs keep their names and types.

    FP32 is the exported graph itself, and so is INT8 of a graph that already holds Q/DQ nodes. The recipe of any other
    INT8, and of FP8, names `method`, and `calibration`, the digest of the samples. With method `auto`, every method is
    scored on each fourth sample, held back from it, and the one with the smallest loss then gets the whole set;
    `trials` has what came of each. Trials are made anew for each `exclude`: without a layer that cannot be quantized,
    another may win. FP8 is by `max`, whatever the model's method is.

    Args:
        context: the stage's surroundings.
        exported: the exported model.
        precision: what to convert to.
        spec: the model.
        calibration: the calibration set, which INT8 and FP8 need.
        exclude: nodes that INT8 leaves in float, by their names in a `Sensitivity`; `excluded` in the recipe has them
            as a JSON list.
        data: the validation data, a few samples of which show what FP16 must hold (`quantization.range_samples`);
            noise does without.
        half: INT8 with `half` as well. Where that cannot be made, it is told, and the model is without.

    Raises:
        InputError: INT8 or FP8 is asked for without a calibration set, or `auto` with fewer than 8 samples.
        StageError: no converter gave a graph that ONNX Runtime loads, and runs at every check shape, or `exclude` names
            what INT8 would not quantize, or all that it would.
    """
    int8, quantized = precision is Precision.INT8, precision.is_quantized
    if quantized and (calibration is None or spec.calibration is None):
        raise InputError(
            f"model.yaml: calibration: missing, and precision {precision.value} needs it; name a calibration set"
        )
    if exclude and not int8:
        raise StageError(f"convert: layers are left out of int8 alone, not of {precision.value}; exclude for int8")
    calibration = calibration if quantized else None
    ranges = data if precision in {Precision.FP16, Precision.BF16} else None
    method, excluded = _method(spec, precision), tuple(sorted(set(exclude)))
    job = _Conversion(context, exported, precision, spec, calibration, method, excluded, ranges)
    converted = run_cached(context.store, "convert", job.key(), TypedModel, job.run)
    if not int8 or not half:
        return converted
    try:
        return add_half(context, converted, spec, data)
    except StageError as error:
        context.on_warning(
            "int8: what is not quantized stays in FP32 where TensorRT is 10.12 or newer, since FP16 around it cannot be"
            f" had: {onnx_files.short_reason(error)}"
        )
        return converted


def _method(spec: ModelSpec, precision: Precision) -> CalibrationMethod | None:
    if not precision.is_quantized or spec.calibration is None:
        return None
    return CalibrationMethod.MAX if precision is Precision.FP8 else spec.calibration.method


@dataclass(frozen=True)
class _Conversion:
    """One call of `convert_precision`."""

    context: StageContext
    exported: ExportedModel
    precision: Precision
    spec: ModelSpec
    calibration: DataArtifact | None
    method: CalibrationMethod | None
    exclude: tuple[str, ...] = ()
    ranges: DataArtifact | None = None

    def key(self) -> dict[str, object]:
        return {
            "recipe": RECIPES[self.precision],
            "onnx": self.exported.onnx.digest,
            "precision": self.precision.value,
            "inputs": {name: tensor.model_dump(mode="json") for name, tensor in self.spec.inputs.items()},
            "dims": {name: dim.model_dump() for name, dim in self.spec.dims.items()},
            "calibration": None if self.calibration is None else self.calibration.inputs.digest,
            "converters": [converter.describe() for converter in converters_for(self.precision, self.method)],
            "trials": self._trials_key(),
            "exclude": self.exclude,
            "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
            **({} if self.ranges is None else {"ranges": self.ranges.inputs.digest}),
        }

    def _trials_key(self) -> dict[str, object] | None:
        if self.method is not CalibrationMethod.AUTO or self.calibration is None:
            return None
        return {
            "strata": self.calibration.annotations.digest,
            "held_back": HELD_BACK,
            "samples": LOSS_SAMPLES,
            "loss": loss_key(self.spec.outputs),
        }

    def run(self, folder: Path) -> TypedModel:
        if self.precision is Precision.FP32:
            return self._untouched("the exported model is FP32")
        onnx = onnx_files.fetched_model(self.context.store.fetch(self.exported.onnx, folder / "onnx"))
        if self.precision.is_quantized and onnx_files.holds_quantization(onnx):
            return self._quantized_in_training()
        if self.calibration is not None:
            self.context.store.fetch(self.calibration.inputs, folder / "samples")
        elif self.ranges is not None:
            fetch_some(self.context, self.ranges, folder / "samples")
        if self.method is CalibrationMethod.AUTO:
            return self._best_of_trials(folder, onnx)
        return self._first_that_works(folder, onnx)

    def _quantized_in_training(self) -> TypedModel:
        if self.precision is not Precision.INT8:
            raise StageError(
                f"convert: {self.precision.value} cannot be made: the model was quantized in training, and its own Q/DQ"
                " nodes say to what; ask for int8, which takes them as they are"
            )
        if self.exclude:
            raise StageError(
                f"convert: int8 cannot leave out {', '.join(self.exclude)}: the model was quantized in training, and"
                " its own Q/DQ nodes say what is; leave those layers out when training it"
            )
        return self._untouched("the model was quantized in training: it already holds Q/DQ nodes")

    def _untouched(self, reason: str) -> TypedModel:
        recipe = {"converter": "none", "reason": reason}
        return TypedModel(onnx=self.exported.onnx, precision=self.precision, recipe=recipe)

    def _first_that_works(self, folder: Path, onnx: Path) -> TypedModel:
        samples = folder / "samples" if self.calibration is not None or self.ranges is not None else None
        failures: list[tuple[Converter, StageError]] = []
        unloaded: list[tuple[_Step, dict[str, str], StageError]] = []
        for converter in converters_for(self.precision, self.method):
            step = _Step(converter, onnx, folder / converter.module, samples, self.method, self.context.on_progress)
            recipe: dict[str, str] | None = None
            try:
                recipe = self._convert(step)
                recipe["opset"] = self._check(step)
            except StageError as error:
                failures.append((converter, error))
                if recipe is not None:
                    unloaded.append((step, recipe, error))
                continue
            for failed, cause in failures:
                recipe["instead_of"] = f"{failed.name}: {onnx_files.short_reason(cause)}"
            return self._typed(step, recipe)
        lowered = self._at_lower_level(unloaded)
        if lowered is None:
            raise self._failed([(converter.name, error) for converter, error in failures])
        return lowered

    def _at_lower_level(self, steps: list[tuple[_Step, dict[str, str], StageError]]) -> TypedModel | None:
        """The first graph that passes its check where ONNX Runtime optimises less while it loads it."""
        for step, recipe, cause in steps:
            level.lower_level(step.place / "result")
            try:
                recipe["opset"] = self._check(step)
            except StageError:
                continue
            recipe["loaded_at"] = f"{level.LOWERED_IN_WORDS}; at the highest, {onnx_files.short_reason(cause)}"
            return self._typed(step, recipe)
        return None

    def _best_of_trials(self, folder: Path, onnx: Path) -> TypedModel:
        """Quantize with the method of the best trial; where it fails on the whole set, with that of the next."""
        self._hold_back(folder)
        methods = tried_methods()
        failures: list[tuple[str, StageError]] = []
        trials: list[Trial] = []
        for number, method in enumerate(methods):
            progress = part_of(self.context.on_progress, number, len(methods) + 1)
            try:
                trials.append(Trial(method, loss=self._try(folder, onnx, method, progress)))
            except StageError as error:
                failures.append((f"{method.value}, tried", error))
                trials.append(Trial(method, reason=onnx_files.short_reason(error)))
        for trial in rank_trials(trials):
            progress = part_of(self.context.on_progress, len(methods), len(methods) + 1)
            place = folder / f"whole-{trial.method.value}"
            step = _Step(int8_converter(trial.method), onnx, place, folder / "samples", trial.method, progress)
            try:
                recipe = self._convert_and_check(step)
            except StageError as error:
                failures.append((f"{trial.method.value}, on the whole set", error))
                trials = with_reason(trials, trial.method, onnx_files.short_reason(error))
                continue
            return self._typed(step, {**recipe, **describe_trials(trials)})
        raise self._failed(failures)

    def _hold_back(self, folder: Path) -> None:
        assert self.calibration is not None  # noqa: S101 - convert_precision refuses INT8 without calibration
        self.context.store.fetch(self.calibration.annotations, folder / "annotations")
        for name in ("rest", "held"):
            (folder / name).mkdir()
        hold_back(folder / "samples", folder / "annotations", folder / "rest", folder / "held")

    def _try(self, folder: Path, onnx: Path, method: CalibrationMethod, progress: Callable[[int, int], None]) -> Loss:
        place = folder / f"trial-{method.value}"
        self._convert_and_check(
            _Step(int8_converter(method), onnx, place, folder / "rest", method, part_of(progress, 0, 2), is_trial=True)
        )
        request = LossRequest(
            exported=onnx, quantized=onnx_files.find_model(place / "result"), samples=folder / "held", spec=self.spec
        )
        told = part_of(progress, 1, 2)
        return self.context.call_in_child(
            "tasks.quantization.loss:loss_in_child", request, Loss, place, on_progress=told
        )

    def _convert_and_check(self, step: _Step) -> dict[str, str]:
        """Convert, check and return the recipe; the graph lies in the step's `result`."""
        recipe = self._convert(step)
        return {**recipe, "opset": self._check(step)}

    def _convert(self, step: _Step) -> dict[str, str]:
        result = step.place / "result"
        result.mkdir(parents=True)
        copy_libraries(step.onnx, result)
        recipe = self.context.call_in_child(
            f"tasks.quantization.{step.converter.module}:{step.converter.function}",
            ConvertRequest(
                onnx=step.onnx,
                output=result,
                spec=self.spec,
                external_bytes=onnx_files.EXTERNAL_DATA_BYTES,
                samples=step.samples,
                method=step.method,
                exclude=self.exclude,
            ),
            dict[str, str],
            step.place,
            on_progress=step.progress,
        )
        return {**step.converter.describe(), **recipe}

    def _check(self, step: _Step) -> str:
        """The opset of what was converted."""
        check = CheckTypedRequest(
            onnx=onnx_files.find_model(step.place / "result"),
            original=step.onnx,
            spec=self.spec,
            samples=step.samples,
            most_error=MOST_HALF_ERROR if self.precision in {Precision.FP16, Precision.BF16} else None,
            opt_only=step.is_trial,
            written_out=self.precision in {Precision.BF16, Precision.FP8},
        )
        opset = self.context.call_in_child(
            "tasks.graphs.onnx_check:check_typed", check, int, step.place, on_progress=ignore_progress
        )
        return str(opset)

    def _typed(self, step: _Step, recipe: dict[str, str]) -> TypedModel:
        if self.calibration is not None and step.method is not None:
            recipe = {**recipe, "method": step.method.value, "calibration": self.calibration.inputs.digest}
        if self.exclude:
            recipe["excluded"] = json.dumps(self.exclude)
        onnx = self.context.store.put(step.place / "result")
        return TypedModel(onnx=onnx, precision=self.precision, recipe=recipe)

    def _failed(self, failures: list[tuple[str, StageError]]) -> StageError:
        causes = "\n".join(f"({n}) {name}: {cause}" for n, (name, cause) in enumerate(failures, start=1))
        if self.method is None:
            return StageError(f"convert: {self.precision.value} failed.\n{causes}")
        if self.precision is Precision.FP8:
            return StageError(f"convert: fp8 failed, and there is no other converter for it; use fp16.\n{causes}")
        others = ", ".join(method.value for method in CalibrationMethod if method is not self.method)
        no_other = self.exclude or self.method is CalibrationMethod.AUTO or NOTHING_TO_QUANTIZE in causes
        remedy = "" if no_other else f"; try another method ({others})"
        return StageError(f"convert: int8 by calibration.method {self.method.value} failed{remedy}.\n{causes}")


@dataclass(frozen=True)
class _Step:
    """One run of a converter: on which graph and samples, in a folder of its own, and whom to tell about progress."""

    converter: Converter
    onnx: Path
    place: Path
    samples: Path | None
    method: CalibrationMethod | None
    progress: Callable[[int, int], None]
    is_trial: bool = False
