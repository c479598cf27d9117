"""Builds TensorRT plans from a typed ONNX file. Runs in a child process: a builder can crash, or never end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx

from tasks.backends import attention_plugin, trt_rtx
from tasks.backends.interface import refits
from tasks.backends.profiles import check_outputs_can_be_cut, profiles_of
from tasks.backends.timing_cache import TimingCache
from tasks.backends.trt_dialect import OLDEST_TYPED, Dialect, dialect_of
from tasks.backends.trt_log import TrtLog, load_plugins
from tasks.backends.trt_plan import PlanIndex
from tasks.backends.trt_progress import progress_monitor
from tasks.backends.trt_tactics import (
    EDITABLE,
    TacticChoice,
    TimedTactics,
    algorithm_selector,
    edit_timings,
    keep_tactics,
    read_timings,
)
from tasks.errors import InputError, StageError
from tasks.specs import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tasks.records import EngineProfile

# Engines that use these need NVIDIA's libraries of the same name on every host that runs them.
UNWANTED_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")
MIB = 1 << 20
PROGRESS_STEPS = 1000
UNNAMED = "?"  # an axis that varies, and of which the graph says no more

Shapes = dict[str, tuple[tuple[int, ...], ...]]
"""The least, usual and largest shape of each input that stays dynamic."""


def build_plans(trt: Any, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
    """Build the plan of every profile into `job.plan`, with the index that loading needs; return warnings.

    `trt` is the TensorRT module.

    Raises:
        InputError: the model has a shape or an operation that cannot be built.
        StageError: the builder failed; its errors are in the message.
    """
    dialect = dialect_of(trt)
    model = onnx.load(str(job.onnx), load_external_data=False)
    if job.precision not in dialect.builder_flags:
        raise InputError(
            f"TensorRT {trt.__version__} has no {job.precision.value}; build with TensorRT {OLDEST_TYPED[0]}."
            f"{OLDEST_TYPED[1]} or newer, or leave {job.precision.value} out of precisions"
        )
    _check_opset(model, dialect, trt.__version__)
    outputs = {value.name: _axes(value) for value in model.graph.output}
    batch_dim = str(next(iter(job.inputs.values())).shape[0])
    check_outputs_can_be_cut(outputs, job.dims, batch_dim)
    profiles = profiles_of(job.dims)
    slow: tuple[str, ...] = ()
    if attention_plugin.is_wanted(trt, job.settings, job.precision):
        job, slow = attention_plugin.with_plugin(job, model)
    index = PlanIndex.describe(job, profiles, outputs)
    index.write(job.plan, job.plugins)
    log = TrtLog(trt)
    load_plugins(trt, log, job.plugins)
    timings = read_timings(job.pinned) if dialect.edits_timings else b""
    cache = TimingCache(job.timing_cache, log, is_kept=not trt_rtx.is_rtx(trt), content=timings)
    builder = _Builder(trt, log, job, dialect, cache, TacticChoice.read(job.avoid, job.pinned))
    for number, profile in enumerate(profiles):

        def step(share: float, number: int = number) -> None:
            progress(int(PROGRESS_STEPS * (number + share)), PROGRESS_STEPS * len(profiles))

        step(0.0)
        (job.plan / profile.file).write_bytes(builder.build(profile, step))
    progress(PROGRESS_STEPS * len(profiles), PROGRESS_STEPS * len(profiles))
    warnings = (*slow, *cache.warnings, *builder.warnings, *log.warnings)
    if job.tactics is not None:
        files = [profile.file for profile in profiles]
        keep_tactics(trt, log, job.plan, files, job.tactics, cache.content, edited=builder.choice.edits)
    return warnings


def _check_opset(model: onnx.ModelProto, dialect: Dialect, version: str) -> None:
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if dialect.newest_opset is not None and opset > dialect.newest_opset:
        raise InputError(
            f"model.yaml: export.opset: TensorRT {version} takes opset {dialect.newest_opset} at most, and the"
            f" converted model has {opset}; set export.opset: {dialect.newest_opset} (and for INT8 a calibration.method"
            " other than max, whose converter raises the opset), or build with a newer TensorRT"
        )


def _axes(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return (UNNAMED,)
    return tuple(axis.dim_param or axis.dim_value or UNNAMED for axis in tensor.shape.dim)


@dataclass(frozen=True)
class _Builder:
    """What the plans of one engine are built with."""

    trt: Any
    log: TrtLog
    job: BuildJob
    dialect: Dialect
    cache: TimingCache
    choice: TacticChoice
    warnings: list[str] = field(default_factory=list)

    def build(self, profile: EngineProfile, step: Callable[[float], None]) -> bytes:
        builder = self.trt.Builder(self.log.logger)
        network = builder.create_network(self.dialect.network_flags)
        parse_onnx(self.trt, self.log, network, self.job.onnx)
        shapes = _fix_inputs(network, self.job, profile)
        config = self.cache.configure(lambda file: self._configure(builder, network, shapes, step, file))
        selector = None
        if not self.dialect.edits_timings and self.choice.is_made:
            selector = config.algorithm_selector = algorithm_selector(self.trt, self.choice, profile.file)
        plan = self._build_with_others if self.dialect.edits_timings and self.choice.kernels else self._once
        content = plan(builder, network, config, profile)
        del selector  # it has to outlive the build
        self.log.refuse_inconsistent(profile.file)
        self.cache.keep(config)
        return content

    def _once(self, builder: Any, network: Any, config: Any, profile: EngineProfile) -> bytes:
        self.log.clear()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise StageError(f"TensorRT {self.trt.__version__} cannot build {profile.file}: {self.log.errors()}")
        return bytes(plan)

    def _build_with_others(self, builder: Any, network: Any, config: Any, profile: EngineProfile) -> bytes:
        """Build to time every tactic, and again with the fastest one that is left wherever one to avoid was chosen."""
        timed = TimedTactics()
        with self.log.heard_by(timed.hear):
            plan = self._once(builder, network, config, profile)
        others = timed.others(self.choice.kernels)
        if edit_timings(self.trt, config.get_timing_cache(), others):
            return self._once(builder, network, config, profile)
        if not timed.has_any:
            self.warnings.append(
                f"{profile.file}: TensorRT {self.trt.__version__} does not tell which tactics it timed; those of the"
                " build that was wrong may be chosen again"
            )
        return plan

    def _configure(
        self, builder: Any, network: Any, shapes: Shapes, step: Callable[[float], None], cache_file: str | None
    ) -> Any:
        from polygraphy.backend.trt import CreateConfig, Profile  # noqa: PLC0415 - only GPU runners have it

        settings = self.job.settings
        profile = Profile()
        for name, (low, opt, high) in shapes.items():
            profile.add(name, low, opt, high)
        sources = [source for name, source in self.trt.TacticSource.__members__.items() if name not in UNWANTED_TACTICS]
        limit = settings.memory_limit_mib
        monitor = progress_monitor(self.trt, step)
        create = CreateConfig(
            profiles=[profile] if shapes else [],
            load_timing_cache=cache_file,
            tf32=self.job.precision is not Precision.FP32,
            sparse_weights=settings.sparsity,
            tactic_sources=sources,
            profiling_verbosity=self.trt.ProfilingVerbosity.DETAILED,
            memory_pool_limits=None if limit is None else {self.trt.MemoryPoolType.WORKSPACE: limit * MIB},
            builder_optimization_level=settings.optimization_level,
            progress_monitor=monitor,
        )
        config = create(builder, network)
        flags = self.dialect.builder_flags[self.job.precision]
        for flag in (*flags, *((EDITABLE,) if self.dialect.edits_timings and self.choice.edits else ())):
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        if self.job.capability is None:
            self._allow_more(config)
        else:
            trt_rtx.aim(self.trt, config, self.job.capability)
        return config

    def _allow_more(self, config: Any) -> None:
        """Let the plan take other weights, and other GPUs, where model.yaml asks for it."""
        settings = self.job.settings
        if refits(settings, self.job.precision):
            config.set_flag(self.trt.BuilderFlag.REFIT)
        if settings.hardware_compatible:
            level = getattr(self.trt.HardwareCompatibilityLevel, self.dialect.compatibility)
            config.hardware_compatibility_level = level


def parse_onnx(trt: Any, log: TrtLog, network: Any, onnx_file: Path) -> None:
    """Fill the network from the ONNX file; it keeps the parser, whose memory its weights are in.

    Raises:
        InputError: naming every node that TensorRT does not take.
    """
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse_from_file(str(onnx_file)):
        return
    from tasks.backends.trt_unsupported import unsupported_nodes  # noqa: PLC0415 - only where something is

    said = log.errors()
    nodes = unsupported_nodes(trt, log, onnx_file)
    if not nodes:
        raise InputError(f"TensorRT {trt.__version__} does not take the converted model: {said}")
    lines = "".join(f"\n  {node}" for node in nodes)
    raise InputError(
        f"TensorRT {trt.__version__} does not take {len(nodes)} nodes of the converted model; rewrite what they come"
        f" from in the module, or name a plugin library that holds them under build.plugins in model.yaml:{lines}"
    )


def _fix_inputs(network: Any, job: BuildJob, profile: EngineProfile) -> Shapes:
    """Give inputs the extents that the profile fixes; return the shapes of the others."""
    shapes: Shapes = {}
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        dims = [profile.dims[axis] if isinstance(axis, str) else axis for axis in job.inputs[tensor.name].shape]
        low, opt, high = (
            tuple(d if isinstance(d, int) else getattr(d, which) for d in dims) for which in ("min", "opt", "max")
        )
        if low == high:
            tensor.shape = high
        else:
            tensor.shape = tuple(a if a == b else -1 for a, b in zip(low, high, strict=True))
            shapes[tensor.name] = (low, opt, high)
    return shapes
