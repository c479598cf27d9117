"""Frozen models of what the stages hand each other, and of what is kept of an engine."""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from tasks.errors import InputError
from tasks.runtimes import RUNTIMES, default_runtime
from tasks.specs import (
    ENGINE_ID,
    NAME_LENGTH,
    TARGET,
    Digest,
    Dim,
    Frozen,
    InputSpec,
    ModelSpec,
    Name,
    OutputDeclaration,
    Precision,
)
from validation.comparison import ComparisonResult
from validation.metrics import METRICS, Bound
from validation.policy import Policy
from validation.verdict import Outcome, Verdict

LONGEST_REASON = 2000


class Cell(Frozen):
    """One engine to make: a cell of the matrix of targets and precisions.

    `runtime` is what runs it, by default the first one that takes the target; no name or record spells that one out.
    """

    model: Name
    target: Annotated[str, Field(pattern=TARGET.pattern)]
    precision: Precision
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    runtime: str = Field(default_factory=lambda known: default_runtime(known.get("target", "")))

    @field_validator("runtime")
    @classmethod
    def _takes_the_target(cls, value: str, info: ValidationInfo) -> str:
        target = info.data.get("target", "")
        taking = [name for name, runtime in RUNTIMES.items() if runtime.takes(target)]
        if value not in taking:
            raise ValueError(f"{value!r} makes no engines for {target}; choose from {', '.join(taking)}")
        return value

    @model_serializer(mode="wrap")
    def _without_default_runtime(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if name != "runtime" or value != self._default}

    @property
    def _default(self) -> str:
        return default_runtime(self.target)

    @property
    def place(self) -> str:
        """`{target}`, or `{target}-{runtime}` where that is not the target's default: where the engine runs."""
        return self.target if self.runtime == self._default else f"{self.target}-{self.runtime}"

    @property
    def engine_id(self) -> str:
        """`{model}-{target}-{precision}@{version}`, the runtime after the target where it is not the default."""
        return f"{self.model}-{self.place}-{self.precision.value}@{self.version}"

    @classmethod
    def parse(cls, engine_id: str) -> Cell:
        """Read an engine id; raise InputError when it is none."""
        match = ENGINE_ID.fullmatch(engine_id)
        if match is None or len(match["model"]) > NAME_LENGTH:
            raise InputError(
                f"{engine_id!r} is no engine id; it reads model-target-precision@version,"
                " like essay-scorer-cpu-int8@0123456789ab (see `enginegate engines`)"
            )
        try:
            cell = cls.model_validate({name: value for name, value in match.groupdict().items() if value is not None})
        except ValidationError as error:
            raise InputError(f"{engine_id!r} is no engine id: {error.errors()[0]['msg']}") from None
        if cell.engine_id != engine_id:
            raise InputError(f"{engine_id!r} is no engine id; that engine's is {cell.engine_id}")
        return cell


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
        if not value.isprintable() or path.as_posix() != value:
            raise ValueError(f"{value!r} is no plain path; name the file otherwise")
        return value


class Artifact(Frozen):
    """Content-addressed set of files in the artifact store. `digest` covers every path, digest and size."""

    digest: Digest
    files: tuple[ArtifactFile, ...]

    @field_validator("files")
    @classmethod
    def _lie_beside_each_other(cls, value: tuple[ArtifactFile, ...]) -> tuple[ArtifactFile, ...]:
        paths = [file.path for file in value]
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if len(set(paths)) < len(paths) or folders & set(paths):
            raise ValueError("two files have one place; name one otherwise")
        return value

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size_bytes for file in self.files)


class DataArtifact(Frozen):
    """Data in shards: `{index:05d}.npz` files, each with arrays of one shape per sample.

    `slices` are the names of the annotations `slice.<name>`, sorted.
    """

    inputs: Artifact
    annotations: Artifact
    samples: Annotated[int, Field(ge=1)]
    slices: tuple[str, ...]


class ReferenceArtifact(Frozen):
    """The reference's outputs on the validation data, sharded as its inputs."""

    outputs: Artifact


class ModuleArtifact(Frozen):
    """The module's source files and weights in the store, so that a runner can time it without the model directory.

    Files lie below `source/`; `weights` is the path of the weights inside the artifact.
    """

    files: Artifact
    source: str
    weights: str | None


class ExportedModel(Frozen):
    """The exported ONNX model, and how closely it agrees with the reference (largest |difference| by shape).

    `recipe` names the exporter, and the simplifier or why its result was not kept.
    """

    onnx: Artifact
    opset: int
    checks: dict[str, float]
    recipe: dict[str, str] = Field(default_factory=dict)


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
    mig: str | None = None


class EngineProfile(Frozen):
    """One plan of an engine: its file, and the extents it takes of each named dimension."""

    file: str
    dims: dict[str, Dim]


class BuiltEngine(Frozen):
    """A built engine. `plan` is the exact bytes that are compared, benchmarked and published.

    It may be several plans, one a profile; the first profile that holds an input takes it.
    """

    plan: Artifact
    backend: BackendIdentity
    options: dict[str, str]
    profiles: tuple[EngineProfile, ...]
    cache_key: Digest


class ComparedEngine(Frozen):
    """An engine's outputs on the validation data, sharded as its inputs, and their comparison with the reference.

    `plan` says which engine: the digest of its bytes. `peak_memory_bytes` is the largest resident memory of the
    processes that ran and measured it.
    """

    plan: Digest
    outputs: Artifact
    comparison: ComparisonResult
    peak_memory_bytes: int


class Latency(Frozen):
    """Wall time of one call at a batch size, in milliseconds, and the samples a second that its median allows.

    `p50_interval` bounds the median, as `Benchmark.speedup_interval` does a speed-up.
    """

    batch: int
    p50_ms: float
    p50_interval: tuple[float, float]
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    calls: int


class PytorchForm(str, Enum):
    """How the module is run in PyTorch to be timed beside an engine. `EAGER_FP32` is the reference."""

    EAGER_FP32 = "eager_fp32"
    EAGER_FP16 = "eager_fp16"
    COMPILE_FP16 = "compile_fp16"


class Timing(Frozen):
    """Latencies of one side of a benchmark by batch size, and the device memory it took (None: not known), in bytes."""

    latencies: tuple[Latency, ...]
    device_memory_bytes: int | None = None


class Benchmark(Frozen):
    """Latencies of an engine and, where torch is present, of the module in PyTorch, measured in turns.

    `speedup` maps a form of PyTorch and a batch size to its p50 over the engine's, and `speedup_interval` to one-sided
    bounds of that, each at 98 % confidence. `missing` says why a form of PyTorch was not timed. `layers` holds
    `layers.json`, the engine's layers with the time of each.
    """

    engine: Timing
    pytorch: dict[PytorchForm, Timing]
    speedup: dict[PytorchForm, dict[int, float]]
    speedup_interval: dict[PytorchForm, dict[int, tuple[float, float]]]
    missing: dict[PytorchForm, str] = Field(default_factory=dict)
    engine_size_bytes: int
    headline_batch: int
    layers: Artifact | None = None

    @field_validator("headline_batch")
    @classmethod
    def _was_timed(cls, value: int, info: ValidationInfo) -> int:
        timed = info.data.get("engine")
        if timed is not None and value not in {latency.batch for latency in timed.latencies}:
            raise ValueError(f"batch {value} was not timed")
        return value

    @property
    def headline(self) -> Latency:
        """The engine's latency at the batch size that the model's `opt` names."""
        return self.at(self.headline_batch)

    def at(self, batch: int) -> Latency:
        """The engine's latency at a batch size."""
        return next(latency for latency in self.engine.latencies if latency.batch == batch)

    @property
    def headline_speedup(self) -> float | None:
        """The reference's p50 over the engine's at the batch size that `opt` names; None where it was not timed."""
        return self.speedup.get(PytorchForm.EAGER_FP32, {}).get(self.headline_batch)


class SmokeArtifact(Frozen):
    """A few samples to try an engine on where it serves: inputs, and outputs of the reference and of the engine.

    The outputs are those that were compared. All three are sharded alike, `samples` in all.
    """

    inputs: Artifact
    reference: Artifact
    candidate: Artifact
    samples: Annotated[int, Field(ge=1)]


class Override(Frozen):
    """Why a rule of the registry was broken, by whom (None: not said) and when (UTC)."""

    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    who: str | None
    when: str


class CalibrationRecord(Frozen):
    """What an engine's manifest says of the calibration set that it was quantized with.

    `accepted` is the reason of whoever accepted the findings; None where there are none.
    """

    name: str
    digest: Digest
    production_digest: Digest
    findings: tuple[str, ...]
    accepted: str | None = None


class EngineManifest(Frozen):
    """What an engine is, and why it may be trusted: kept beside it in the registry.

    `who` converted it, where that was said. An engine without a `pass` is there by an `override` alone.
    """

    schema_version: Literal[4] = 4
    engine_id: str
    cell: Cell
    source_commit: str | None
    plan: Artifact
    onnx: Artifact
    reference_outputs: Artifact
    smoke: SmokeArtifact
    recipe: dict[str, str]
    calibration: CalibrationRecord | None = None
    dims: dict[str, Dim]
    inputs: dict[str, InputSpec]
    outputs: dict[str, OutputDeclaration]
    backend: BackendIdentity
    options: dict[str, str]
    profiles: tuple[EngineProfile, ...]
    profile_rule: str
    cache_key: Digest
    policy: Policy
    policy_digest: Digest
    verdict: Verdict
    comparison: ComparisonResult
    benchmark: Benchmark
    mlflow_run: str | None
    who: str | None
    created_at: str
    override: Override | None = None


class EngineJob(Frozen):
    """Everything that a runner needs to make one engine and judge it; the artifacts lie in the store."""

    cell: Cell
    spec: ModelSpec
    policy: Policy
    typed: TypedModel
    data: DataArtifact
    reference: ReferenceArtifact
    module: ModuleArtifact
    plugins: Artifact | None = None


class EngineTry(Frozen):
    """One try of a precision search: an INT8 engine with `excluded` of `layers` layers left in FP16, and how it did.

    `metrics` are the judged ones, by output and name, on all samples. `speedup_vs_fp16` is None where no FP16 engine
    was timed beside it.
    """

    excluded: tuple[str, ...]
    layers: int
    outcome: Outcome
    sentence: str
    metrics: dict[str, float]
    p50_ms: float | None = None
    speedup_vs_fp16: float | None = None
    onnx: Digest | None = None

    @property
    def is_faster(self) -> bool:
        """Whether something is gained over FP16; taken for granted where no FP16 engine says otherwise."""
        return self.speedup_vs_fp16 is None or self.speedup_vs_fp16 > 1


class EngineOutcome(Frozen):
    """How a cell ended: its verdict with what was measured, or the reason why there is no engine.

    `calibration` says what INT8 was quantized with, and `tries` what a precision search made, the first one without
    any layer left out.
    """

    cell: Cell
    outcome: Outcome
    reason: str = ""
    typed: TypedModel | None = None
    engine: BuiltEngine | None = None
    compared: ComparedEngine | None = None
    verdict: Verdict | None = None
    policy: Policy | None = None
    benchmark: Benchmark | None = None
    calibration: CalibrationRecord | None = None
    tries: tuple[EngineTry, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether the other engines of the conversion have no say in this one's verdict."""
        if self.verdict is None or self.policy is None:
            return True
        on_pvalues = any(METRICS[rule.metric].bound is Bound.PVALUE for rule in self.policy.rules)
        return not self.policy.performance and not on_pvalues
