"""Frozen models of model.yaml and of what the stages hand each other."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.errors import InputError
from validation.comparison import ComparisonResult
from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy
from validation.verdict import Outcome, Verdict

NAME_LENGTH = 64
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=NAME_LENGTH)]
ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Dtype = Literal["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]

TARGETS = ("cpu", "t4", "a10g", "l4", "a100", "h100", "h200")
# Only these can be cut into MIG slices.
_TARGET = rf"(?:{'|'.join(TARGETS)}|(?:a100|h100|h200)-mig-[0-9]g\.[0-9]+gb)"
TARGET = re.compile(rf"^{_TARGET}$")
ENGINE_ID = re.compile(
    rf"^(?P<model>[a-z0-9]+(?:-[a-z0-9]+)*)-(?P<target>{_TARGET})"
    r"-(?P<precision>fp32|fp16|int8)@(?P<version>[0-9a-f]{12})$"
)


class Frozen(BaseModel):
    """Base of every model here: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Declared(Frozen):
    """Base of what people write in model.yaml: types are taken strictly, so `"8"` or `true` is no number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Precision(str, Enum):
    """Numeric type of the heavy operators of an engine."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Dim(Declared):
    """Extent of a named dimension, in elements, as TensorRT's optimisation profile wants it."""

    min: Annotated[int, Field(ge=1)]
    opt: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Dim:
        if self.opt > self.max:
            raise ValueError(f"opt {self.opt} is above max {self.max}; raise max or lower opt")
        if self.min > self.opt:
            raise ValueError(f"min {self.min} is above opt {self.opt}; raise opt or lower min")
        return self


class InputSpec(Declared):
    """An input of the module: its dtype, and per axis a dimension's name or a fixed extent."""

    dtype: Dtype
    shape: Annotated[tuple[ArrayName | Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)]


class OutputDeclaration(Declared):
    """What an output means; it selects the metrics. `range` is the closed interval of a score, in its own unit."""

    kind: Annotated[OutputKind, Field(strict=False)]
    range: Annotated[tuple[float, float] | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _range_is_an_interval(self) -> OutputDeclaration:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range {list(self.range)} is empty; write [low, high] with low < high")
        if self.range is not None and self.kind is not OutputKind.SCORE:
            raise ValueError(f"range belongs to kind score, not {self.kind.value}; remove it")
        return self

    def as_output_spec(self) -> OutputSpec:
        """The same declaration in the words of the validation room."""
        low, high = self.range or (None, None)
        return OutputSpec(kind=self.kind, low=low, high=high)


class CalibrationMethod(str, Enum):
    """How activation ranges for INT8 are found. `max` runs ModelOpt; the others ONNX Runtime's static quantizer."""

    MAX = "max"
    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


class CalibrationSpec(Declared):
    """The calibration set (a folder, relative to the model directory) and the method that reads it."""

    set: Annotated[str, Field(min_length=1)]
    method: Annotated[CalibrationMethod, Field(strict=False)] = CalibrationMethod.ENTROPY


class ValidationSpec(Declared):
    """Validation data (`.npz`, or a folder of them) and, if the defaults do not serve, a policy file."""

    data: Annotated[str, Field(min_length=1)]
    policy: Annotated[str, Field(min_length=1)] | None = None


class ExportSpec(Declared):
    """How the module becomes ONNX."""

    opset: Annotated[int, Field(ge=13, le=23)] = 20
    exporter: Literal["dynamo", "torchscript"] = "dynamo"


class ModelSpec(Declared):
    """model.yaml. Relations between fields are checked here, files in `model_directory`."""

    name: Name
    source: Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$")]
    weights: Annotated[str, Field(min_length=1)] | None = None
    inputs: Annotated[dict[ArrayName, InputSpec], Field(min_length=1)]
    dims: dict[ArrayName, Dim] = {}
    outputs: Annotated[dict[ArrayName, OutputDeclaration], Field(min_length=1)]
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    precisions: Annotated[tuple[Annotated[Precision, Field(strict=False)], ...], Field(min_length=1, strict=False)]
    calibration: CalibrationSpec | None = None
    validation: ValidationSpec
    export: ExportSpec = ExportSpec()

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
                f"inputs: the first axis of every input must be one named dimension (the samples), not {first}"
            )
        return self

    @model_validator(mode="after")
    def _int8_has_calibration(self) -> ModelSpec:
        if Precision.INT8 in self.precisions and self.calibration is None:
            raise ValueError("calibration: missing, and precision int8 needs it; name a calibration set or drop int8")
        return self

    @property
    def batch_dim(self) -> str:
        """Name of the dimension that counts samples."""
        return str(next(iter(self.inputs.values())).shape[0])

    def output_specs(self) -> dict[str, OutputSpec]:
        """The outputs in the words of the validation room."""
        return {name: declaration.as_output_spec() for name, declaration in self.outputs.items()}


class Cell(Frozen):
    """One engine to make: a cell of the matrix of targets and precisions."""

    model: Name
    target: Annotated[str, Field(pattern=TARGET.pattern)]
    precision: Precision
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]

    @property
    def engine_id(self) -> str:
        """`{model}-{target}-{precision}@{version}`."""
        return f"{self.model}-{self.target}-{self.precision.value}@{self.version}"

    @classmethod
    def parse(cls, engine_id: str) -> Cell:
        """Read an engine id; raise InputError when it is none."""
        match = ENGINE_ID.fullmatch(engine_id)
        if match is None or len(match["model"]) > NAME_LENGTH:
            raise InputError(
                f"{engine_id!r} is no engine id; it reads model-target-precision@version,"
                " like essay-scorer-cpu-int8@0123456789ab (see `enginegate engines`)"
            )
        return cls.model_validate(match.groupdict())


class ArtifactFile(Frozen):
    """One file of an artifact: its path inside it, its digest and size."""

    path: str
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{value!r} leaves the artifact; give a path inside it")
        return value


class Artifact(Frozen):
    """Content-addressed set of files in the artifact store. `digest` covers every path, digest and size."""

    digest: Digest
    files: tuple[ArtifactFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size_bytes for file in self.files)


class DataArtifact(Frozen):
    """Data in shards: `{index:05d}.npz` files, each with arrays of one shape per sample."""

    inputs: Artifact
    annotations: Artifact
    samples: Annotated[int, Field(ge=1)]


class ReferenceArtifact(Frozen):
    """The reference's outputs on the validation data, sharded as its inputs; and the range of each output."""

    outputs: Artifact
    ranges: dict[str, tuple[float, float]]


class ExportedModel(Frozen):
    """The exported ONNX model, and how closely it agrees with the reference (largest |difference| by shape).

    `recipe` names the exporter, and the simplifier or why its result was not kept.
    """

    onnx: Artifact
    opset: int
    checks: dict[str, float]
    recipe: dict[str, str] = {}


class TypedModel(Frozen):
    """A strongly typed ONNX model of one precision. `recipe` names the converter, its version and parameters."""

    onnx: Artifact
    precision: Precision
    recipe: dict[str, str]


class BackendIdentity(Frozen):
    """What built an engine and where: everything of a runtime and its device that an engine may depend on."""

    name: str
    version: str
    device: str
    compute_capability: str | None = None
    cuda: str | None = None
    driver: str | None = None


class BuiltEngine(Frozen):
    """A built engine. `plan` is the exact bytes that are compared, benchmarked and published."""

    plan: Artifact
    backend: BackendIdentity
    options: dict[str, str]
    cache_key: Digest


class ComparedEngine(Frozen):
    """An engine's outputs on the validation data, sharded as its inputs, and their comparison with the reference."""

    outputs: Artifact
    comparison: ComparisonResult
    peak_memory_bytes: int


class Latency(Frozen):
    """Wall time of one call at a batch size, in milliseconds, and the samples a second that its median allows."""

    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    calls: int


class Benchmark(Frozen):
    """Latencies of an engine and, where torch is present, of the PyTorch reference, measured in turns.

    `speedup` maps a batch size to the reference's p50 over the engine's.
    """

    engine: tuple[Latency, ...]
    reference: tuple[Latency, ...]
    speedup: dict[int, float]
    engine_size_bytes: int
    headline_batch: int

    @property
    def headline(self) -> Latency:
        """The engine's latency at the batch size that the model's `opt` names."""
        return next(latency for latency in self.engine if latency.batch == self.headline_batch)


class EngineManifest(Frozen):
    """What an engine is, and why it may be trusted: kept beside it in the registry."""

    schema_version: Literal[1] = 1
    engine_id: str
    cell: Cell
    source_commit: str | None
    plan: Artifact
    onnx: Artifact
    reference_outputs: Artifact
    recipe: dict[str, str]
    dims: dict[str, Dim]
    inputs: dict[str, InputSpec]
    outputs: dict[str, OutputDeclaration]
    backend: BackendIdentity
    options: dict[str, str]
    cache_key: Digest
    policy: Policy
    verdict: Verdict
    comparison: ComparisonResult
    benchmark: Benchmark
    mlflow_run: str | None
    created_at: str


class EngineOutcome(Frozen):
    """How a cell ended: its verdict with what was measured, or the reason why there is no engine."""

    cell: Cell
    outcome: Outcome
    reason: str = ""
    typed: TypedModel | None = None
    engine: BuiltEngine | None = None
    compared: ComparedEngine | None = None
    verdict: Verdict | None = None
    policy: Policy | None = None
    benchmark: Benchmark | None = None
