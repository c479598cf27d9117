"""Frozen models of what the stages hand each other, and of what is kept of an engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from tasks.artifact import Artifact
from tasks.declared import NAME_LENGTH, Digest, Dim, Frozen, InputSpec, Name
from tasks.errors import InputError
from tasks.fresh_records import FreshAgreement, FreshArtifact
from tasks.rebuild_records import Discard, MiscompiledBuild
from tasks.runtimes import RUNTIMES, default_runtime
from tasks.specs import ENGINE_ID, ON_CPU, TARGET, ModelSpec, OutputDeclaration, Precision, ServingSpec, why_impossible
from tasks.timings import Benchmark
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

    @property
    def wants_half(self) -> bool:
        """Whether its builder may be one that takes types as they are, so that INT8 needs FP16 around it."""
        return self.precision is Precision.INT8 and RUNTIMES[self.runtime].typed

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


def cells_of(spec: ModelSpec, version: str) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """The engines that a version of a model consists of, and of the rest of its matrix, why they cannot be."""
    cells, left_out = [], []
    for target in spec.targets:
        for precision in spec.precisions:
            reason = why_impossible(target, precision)
            if reason is None:
                cells.append(Cell(model=spec.name, target=target, precision=precision, version=version))
            else:
                left_out.append(f"no {precision.value} for {target}: {reason}")
    return tuple(cells), tuple(left_out)


class DataArtifact(Frozen):
    """Data in shards: `{index:05d}.npz` files, each with arrays of one shape per sample.

    `slices` are the names of the annotations `slice.<name>`, sorted.
    """

    inputs: Artifact
    annotations: Artifact
    samples: Annotated[int, Field(ge=1)]
    slices: tuple[str, ...]


class ReferenceArtifact(Frozen):
    """The reference's outputs on the validation data, sharded as its inputs, and on inputs that are in no file.

    `fresh` is None in records of releases that did not make such inputs.
    """

    outputs: Artifact
    fresh: FreshArtifact | None = None


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
    """A strongly typed ONNX model of one precision. `recipe` names the converter, its version and parameters.

    `half` is the same INT8 model with FP16 around its Q/DQ nodes, for builders that take types as they are. Those that
    choose them, as TensorRT 8.6 does, run in FP16 what this one leaves in float.
    """

    of_later = ("half",)

    onnx: Artifact
    precision: Precision
    recipe: dict[str, str]
    half: TypedModel | None = None


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

    It may be several plans, one a profile; the first profile that holds an input takes it. `onnx` is the digest of the
    graph that it was built from, and `warnings` are the builder's. `tactics` is what the builder chose, where it tells
    (`tasks.backends.trt_tactics`), and `again` why the build before this one was thrown away.

    `backend` is where it was built; with the option `hardware_compatible`, it may serve a target with another GPU of
    that compute capability. `structure` is what it shares with engines that it could be refitted to, and
    `refitted_from` the plan that its weights were put into (`tasks.stages.refit`).
    """

    of_later = ("onnx", "warnings", "tactics", "again", "structure", "refitted_from")

    plan: Artifact
    backend: BackendIdentity
    options: dict[str, str]
    profiles: tuple[EngineProfile, ...]
    cache_key: Digest
    onnx: Digest | None = None
    warnings: tuple[str, ...] = ()
    tactics: Artifact | None = None
    again: Discard | None = None
    structure: Digest | None = None
    refitted_from: Digest | None = None


class ComparedEngine(Frozen):
    """An engine's outputs on the validation data, sharded as its inputs, and their comparison with the reference.

    `plan` says which engine: the digest of its bytes. `peak_memory_bytes` is the largest resident memory of the
    processes that ran and measured it. Where it does not agree on `fresh` inputs, the comparison has a defect.
    """

    plan: Digest
    outputs: Artifact
    comparison: ComparisonResult
    peak_memory_bytes: int
    fresh: FreshAgreement | None = None


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

    `who` converted it, where that was said. An engine without a `pass` is there by an `override` alone. `compared` is
    the digest of the plan whose outputs were compared. `policy` is the one that it was judged by, the default or the
    model's own, made stricter by the floor of digest `policy_floor` where there was one. Manifests of before December
    2026 say neither. `synthetic` says that its validation data were made up, and is written only where they were.
    `half` is the graph for builders that take types as they are, where the engine was built from another one.
    `miscompiled` counts the builds before it that were wrong, and `again` says why an outcome before was thrown away.
    `backend`, `structure` and `refitted_from` are as in `BuiltEngine`; it was measured on its cell's target. `data` and
    `fresh` name what it was compared on, none of which is in the registry, and `upgraded_from` the engine that it was
    made of, by `enginegate upgrade`. `serving` is model.yaml's.
    """

    of_later = (
        "synthetic", "half", "miscompiled", "again", "structure", "refitted_from", "data", "fresh", "upgraded_from",
        "serving",
    )  # fmt: skip

    schema_version: Literal[4] = 4
    engine_id: str
    cell: Cell
    source_commit: str | None
    plan: Artifact
    onnx: Artifact
    half: Artifact | None = None
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
    policy_origin: Literal["default", "own"] | None = None
    policy_floor: Digest | None = None
    verdict: Verdict
    comparison: ComparisonResult
    compared: Digest | None = None
    benchmark: Benchmark
    mlflow_run: str | None
    who: str | None
    created_at: str
    override: Override | None = None
    synthetic: bool = False
    miscompiled: int = 0
    again: Discard | None = None
    data: DataArtifact | None = None
    fresh: FreshArtifact | None = None
    upgraded_from: str | None = None
    structure: Digest | None = None
    refitted_from: Digest | None = None
    serving: ServingSpec = ServingSpec()


class EngineJob(Frozen):
    """Everything that a runner needs to make one engine and judge it; the artifacts lie in the store.

    Without a `module`, which no registry has, the engine is timed alone. `groups` is as `tasks.stages.independence`
    stores it; a job without it reads as it did before there were any. With `again`, what is cached of the engine is
    thrown away first, once.
    """

    of_later = ("groups", "again")

    cell: Cell
    spec: ModelSpec
    policy: Policy
    typed: TypedModel
    data: DataArtifact
    reference: ReferenceArtifact
    module: ModuleArtifact | None
    plugins: Artifact | None = None
    groups: Artifact | None = None
    again: Discard | None = None


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

    `calibration` says what INT8 was quantized with, and `tries` what a precision search made, at first with all layers.
    `miscompiled` are the builds that were wrong, the engine's own last where none was right; `reason` says so then.
    """

    of_later = ("miscompiled",)

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
    miscompiled: tuple[MiscompiledBuild, ...] = ()

    @property
    def scope(self) -> str:
        """What the evidence does not reach, for people, or nothing."""
        return ON_CPU.get(self.cell.precision, "") if self.cell.place == "cpu" else ""

    @property
    def is_settled(self) -> bool:
        """Whether the other engines of the conversion have no say in this one's verdict."""
        if self.verdict is None or self.policy is None:
            return True
        on_pvalues = any(METRICS[rule.metric].bound is Bound.PVALUE for rule in self.policy.rules)
        return not self.policy.performance and not on_pvalues
