"""Frozen models of model.yaml."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.declared import ArrayName, Declared, Dim, InputSpec, Name
from tasks.layouts import dim_of, samples_first
from tasks.runtimes import RUNTIMES
from tasks.sampling_spec import SamplingSpec
from tasks.source_spec import PYTORCH, AnySource, SourceSpec
from validation.kinds import KEYS
from validation.misfits import find_wrong_key
from validation.outputs import OutputKind, OutputSpec

TARGETS = ("cpu", "t4", "a10g", "l4", "a100", "h100", "h200")
# Only these can be cut into MIG slices.
_TARGET = rf"(?:{'|'.join(TARGETS)}|(?:a100|h100|h200)-mig-[0-9]g\.[0-9]+gb)"
TARGET = re.compile(rf"^{_TARGET}$")


class Precision(str, Enum):
    """Numeric type of the heavy operators of an engine. FP8 is E4M3, FP16 around it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"

    @property
    def is_quantized(self) -> bool:
        """Whether it takes ranges from a calibration set."""
        return self in {Precision.INT8, Precision.FP8}


ENGINE_ID = re.compile(
    rf"^(?P<model>[a-z0-9]+(?:-[a-z0-9]+)*)-(?P<target>{_TARGET})(?:-(?P<runtime>{'|'.join(RUNTIMES)}))?"
    rf"-(?P<precision>{'|'.join(precision.value for precision in Precision)})@(?P<version>[0-9a-f]{{12}})$"
)

# Precisions that not every target has: the targets that do, and what the others lack. A MIG slice has what its GPU has.
# cpu computes both in FP32 and rounds (`tasks.graphs.cpu_form`).
_ONLY_ON: dict[Precision, tuple[tuple[str, ...], str]] = {
    Precision.FP8: (("cpu", "l4", "h100", "h200"), "FP8 takes compute capability 8.9 or later"),
    Precision.BF16: (("cpu", "a10g", "l4", "a100", "h100", "h200"), "BF16 takes compute capability 8.0 or later"),
}

ON_CPU = {
    Precision.FP16: (
        "FP16 on cpu rounds, and overflows, after every operation, which it computes in FP32; a GPU rounds less often"
        " where it fuses, may add up in FP16, and has another speed"
    ),
    Precision.BF16: (
        "BF16 on cpu rounds after every operation, which it computes in FP32; a GPU rounds less often where it fuses,"
        " and has another speed"
    ),
    Precision.FP8: (
        "FP8 on cpu rounds to E4M3 where the graph says so, to FP16 after every other operation, and computes in FP32;"
        " it shows what the quantization costs, and nothing of a GPU's speed"
    ),
}
"""What an engine on `cpu` does not show of a GPU."""


def why_impossible(target: str, precision: Precision) -> str | None:
    """Why there are no engines of a precision for a target; None where there are."""
    targets, reason = _ONLY_ON.get(precision, (TARGETS, ""))
    if target.partition("-mig-")[0] in targets:
        return None
    return f"{reason} ({', '.join(one for one in targets if one != 'cpu')}), and {target} is older"


class OutputDeclaration(Declared):
    """What an output means; it selects the metrics. `range` is the closed interval of a score, in its own unit.

    `mask` names an input that is zero where the output belongs to padding, which then counts for nothing. `axis` is the
    one that holds the classes, `threshold` the score from which on a label or a box holds, and `blank` the number of
    CTC's blank. Of these, one that is not given is not written either: what was written before there were any is the
    same.
    """

    of_later = KEYS

    kind: Annotated[OutputKind, Field(strict=False)]
    range: Annotated[tuple[float, float] | None, Field(strict=False)] = None
    mask: ArrayName | None = None
    axis: int | None = None
    threshold: float | None = None
    blank: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _range_is_an_interval(self) -> OutputDeclaration:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range {list(self.range)} is empty; write [low, high] with low < high")
        if self.range is not None and self.kind is not OutputKind.SCORE:
            raise ValueError(f"range belongs to kind score, not {self.kind.value}; remove it")
        return self

    @model_validator(mode="after")
    def _mask_is_of_positions(self) -> OutputDeclaration:
        if self.mask is not None and self.kind is OutputKind.SCORE:
            raise ValueError(f"mask: a score has no positions for {self.mask} to leave out; remove it")
        return self

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> OutputDeclaration:
        problem = find_wrong_key(self.as_output_spec())
        if problem is not None:
            raise ValueError(problem)
        return self

    def as_output_spec(self) -> OutputSpec:
        """The same declaration in the words of the validation room."""
        low, high = self.range or (None, None)
        keys = {key: getattr(self, key) for key in KEYS}
        return OutputSpec(kind=self.kind, low=low, high=high, mask=self.mask, **keys)


class CalibrationMethod(str, Enum):
    """How activation ranges for INT8 are found. `max` runs ModelOpt; the others ONNX Runtime's static quantizer.

    FP8 is by `max` whatever INT8 takes: ModelOpt has no other, and E4M3's steps shrink with its values, so that little
    is gained by clipping.

    `auto` tries them all on a part of the calibration set that it holds back, and takes the closest to the reference.
    """

    MAX = "max"
    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    AUTO = "auto"


class CalibrationSpec(Declared):
    """The calibration set (a folder, relative to the model directory) and the method that reads it."""

    set: Annotated[str, Field(min_length=1)]
    method: Annotated[CalibrationMethod, Field(strict=False)] = CalibrationMethod.ENTROPY


class ValidationSpec(Declared):
    """Validation data (`.npz`, or a folder of them) and, if the defaults do not serve, a policy file.

    `synthetic` data are made up: they show that an engine computes what its reference does, but not on what it will
    meet. No channel beyond `candidate` takes an engine of them.
    """

    of_later = ("synthetic",)

    data: Annotated[str, Field(min_length=1)]
    policy: Annotated[str, Field(min_length=1)] | None = None
    synthetic: bool = False


class ExportSpec(Declared):
    """How the module becomes ONNX."""

    opset: Annotated[int, Field(ge=13, le=23)] = 20
    exporter: Literal["dynamo", "torchscript"] = "dynamo"


class BuildSpec(Declared):
    """How TensorRT builds and runs engines. ONNX Runtime has no such options and ignores all but its plugins.

    `memory_limit_mib` bounds the builder's workspace, in MiB (None: all of the device's memory). `plugins` are shared
    libraries for TensorRT, by path inside the model directory, and `onnxruntime_plugins` those with custom operations
    for ONNX Runtime, on which every export is checked. `sparsity` lets the builder use 2:4 structured sparsity of
    weights. With `attention: auto`, TensorRT 8.6 computes attention over more positions than it has fused kernels for
    by a plugin of ours, where the runner has CUDA's compiler; `tensorrt` leaves it to TensorRT.

    With `refit`, the next version of a model whose graph differs by the values of its weights alone gets its engine by
    putting those into a plan that passed (`tasks.stages.refit`). With `hardware_compatible`, one build serves all
    targets of one compute capability, and each of them compares and times it on its own GPU. Either may cost speed.
    """

    of_later = ("onnxruntime_plugins", "attention", "refit", "hardware_compatible")

    memory_limit_mib: Annotated[int, Field(ge=1)] | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    plugins: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    onnxruntime_plugins: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    sparsity: bool = False
    cuda_graph: bool = True
    attention: Literal["auto", "tensorrt"] = "auto"
    refit: bool = False
    hardware_compatible: bool = False


class ServingSpec(Declared):
    """How a Triton server serves engines; what is None follows from the engine's benchmark (`tasks.serving.batching`).

    `backend` is Triton's for the plans: `tensorrt`, or `python` with this project's own runner, which `auto` takes
    where the server has no other. `preferred_batch_sizes` are in samples, `max_queue_delay_us` how long a request may
    wait for others to share a batch with. A queue holds `max_queue_size` requests, each for `queue_timeout_us` at most,
    both in microseconds. `instances` are those of the router, and `warmup` runs smoke inputs of every bucket before an
    engine is served. With `sampling`, the router keeps some of the requests.
    """

    of_later = ("sampling",)

    backend: Literal["auto", "tensorrt", "python"] = "auto"
    preferred_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...] | None, Field(strict=False, min_length=1)
    ] = None
    max_queue_delay_us: Annotated[int, Field(ge=0)] | None = None
    max_queue_size: Annotated[int, Field(ge=1)] | None = None
    queue_timeout_us: Annotated[int, Field(ge=1)] | None = None
    instances: Annotated[int, Field(ge=1, le=64)] = 2
    warmup: bool = True
    sampling: SamplingSpec | None = None


class ModelSpec(Declared):
    """model.yaml. Relations between fields are checked here, files in `model_directory`.

    With `precision_search`, an INT8 candidate that fails the gate is tried again with its worst layers left out.
    """

    of_later = ("serving",)

    name: Name
    source: AnySource
    weights: Annotated[str, Field(min_length=1)] | None = None
    inputs: Annotated[dict[ArrayName, InputSpec], Field(min_length=1)]
    dims: dict[ArrayName, Dim] = Field(default_factory=dict)
    outputs: Annotated[dict[ArrayName, OutputDeclaration], Field(min_length=1)]
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    precisions: Annotated[tuple[Annotated[Precision, Field(strict=False)], ...], Field(min_length=1, strict=False)]
    calibration: CalibrationSpec | None = None
    precision_search: bool = False
    validation: ValidationSpec
    export: ExportSpec = ExportSpec()
    build: BuildSpec = BuildSpec()
    serving: ServingSpec = ServingSpec()

    @model_validator(mode="before")
    @classmethod
    def _samples_are_first(cls, written: object) -> object:
        return samples_first(written)

    @field_validator("targets", "precisions")
    @classmethod
    def _no_repeats(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({str(getattr(v, "value", v)) for v in values if values.count(v) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is listed twice; remove one")
        return values

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not TARGET.fullmatch(value):
                raise ValueError(
                    f"{value!r} is no target; choose from {', '.join(TARGETS)}, or a MIG slice like a100-mig-1g.5gb"
                )
        return values

    @model_validator(mode="after")
    def _sampling_names_inputs(self) -> ModelSpec:
        sampling = self.serving.sampling
        problem = None if sampling is None else sampling.problem_with(self.inputs)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _weights_have_a_callable(self) -> ModelSpec:
        if self.weights is not None and isinstance(self.source, SourceSpec) and self.source.python is None:
            raise ValueError(f"weights: a source {self.source.kind} brings its own; remove the key")
        return self

    @model_validator(mode="after")
    def _dims_are_declared_and_used(self) -> ModelSpec:
        used = {axis for spec in self.inputs.values() for axis in spec.shape if isinstance(axis, str)}
        for name, spec in self.inputs.items():
            for axis in spec.shape:
                if isinstance(axis, str) and axis not in self.dims:
                    raise ValueError(f"inputs.{name}.shape: dimension {axis!r} is not declared; add it under dims")
        for name in self.dims:
            if name not in used:
                raise ValueError(f"dims.{name}: no input uses it; remove it or name it in a shape")
        return self

    @model_validator(mode="after")
    def _samples_share_an_axis(self) -> ModelSpec:
        first = {name: spec.shape[0] for name, spec in self.inputs.items()}
        if len(set(first.values())) != 1 or not isinstance(next(iter(first.values())), str):
            raise ValueError(
                "inputs: the first axis of every input must be one named dimension (the samples), or that one called"
                f" batch wherever it stands, not {first}"
            )
        return self

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> ModelSpec:
        for name, bound in ((name, bound) for name, spec in self.inputs.items() for bound in spec.range or ()):
            if isinstance(bound, str) and dim_of(bound) not in self.dims:
                known = ", ".join(self.dims)
                raise ValueError(f"inputs.{name}.range: {dim_of(bound)!r} is not declared; name a dimension of {known}")
        for name in self.outputs.keys() & self.inputs.keys():
            raise ValueError(
                f"outputs.{name}: is the name of an input too, and a graph has each name once; call the output"
                " otherwise (outputs that a module returns without names are taken in their order)"
            )
        return self

    @model_validator(mode="after")
    def _masks_are_inputs(self) -> ModelSpec:
        for name, output in self.outputs.items():
            if output.mask is not None and output.mask not in self.inputs:
                raise ValueError(
                    f"outputs.{name}.mask: {output.mask} is no input; name one of {', '.join(self.inputs)}, which is"
                    " zero at padding"
                )
        return self

    @model_validator(mode="after")
    def _quantized_has_calibration(self) -> ModelSpec:
        quantized = [precision.value for precision in self.precisions if precision.is_quantized]
        if quantized and self.calibration is None:
            name = quantized[0]
            raise ValueError(
                f"calibration: missing, and precision {name} needs it; name a calibration set or drop {name}"
            )
        if quantized == [Precision.FP8.value] and self.calibration is not None:
            method = self.calibration.method
            if method is not CalibrationMethod.MAX:
                raise ValueError(
                    f"calibration.method: {method.value} finds ranges for int8, which precisions lacks, and fp8 takes"
                    " the largest values alone; write method: max, or add int8"
                )
        return self

    @model_validator(mode="after")
    def _some_cell_is_possible(self) -> ModelSpec:
        reasons = [why_impossible(target, precision) for target in self.targets for precision in self.precisions]
        if all(reasons):
            told = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
            raise ValueError(f"precisions: no target has any of them: {told}; add a target, or a precision like fp16")
        return self

    @model_validator(mode="after")
    def _precision_search_has_int8(self) -> ModelSpec:
        if self.precision_search and Precision.INT8 not in self.precisions:
            raise ValueError(
                "precision_search: true, but precisions has no int8 whose layers it could leave out; add int8 or"
                " remove precision_search"
            )
        return self

    @model_validator(mode="after")
    def _batches_can_be_served(self) -> ModelSpec:
        most = self.dims[self.batch_dim].max
        for size in self.serving.preferred_batch_sizes or ():
            if size > most:
                raise ValueError(
                    f"serving.preferred_batch_sizes: {size} is above dims.{self.batch_dim}.max {most}; lower it"
                )
        return self

    @property
    def batch_dim(self) -> str:
        """Name of the dimension that counts samples."""
        return str(next(iter(self.inputs.values())).shape[0])

    @property
    def reference(self) -> str:
        """What the reference runs on, which engines are compared with: PyTorch, but of an ONNX file."""
        return self.source.reference if isinstance(self.source, SourceSpec) else PYTORCH

    def output_specs(self) -> dict[str, OutputSpec]:
        """The outputs in the words of the validation room."""
        return {name: declaration.as_output_spec() for name, declaration in self.outputs.items()}
