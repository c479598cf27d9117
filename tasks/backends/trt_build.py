"""Builds TensorRT plans from a typed ONNX file. Runs in a child process: a builder can crash, or never end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from tasks.backends import trt_rtx
from tasks.backends.profiles import check_outputs_can_be_cut, profiles_of
from tasks.backends.timing_cache import TimingCache
from tasks.backends.trt_dialect import OLDEST_TYPED, Dialect, dialect_of
from tasks.backends.trt_log import TrtLog, load_plugins
from tasks.backends.trt_plan import PlanIndex
from tasks.backends.trt_progress import progress_monitor
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
    index = PlanIndex.describe(job, profiles, outputs)
    index.write(job.plan, job.plugins)
    log = TrtLog(trt)
    load_plugins(trt, log, job.plugins)
    cache = TimingCache(job.timing_cache, log, is_kept=not trt_rtx.is_rtx(trt))
    builder = _Builder(trt, log, job, dialect, cache)
    for number, profile in enumerate(profiles):

        def step(share: float, number: int = number) -> None:
            progress(int(PROGRESS_STEPS * (number + share)), PROGRESS_STEPS * len(profiles))

        step(0.0)
        (job.plan / profile.file).write_bytes(builder.build(profile, step))
    progress(PROGRESS_STEPS * len(profiles), PROGRESS_STEPS * len(profiles))
    return (*cache.warnings, *log.warnings)


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

    def build(self, profile: EngineProfile, step: Callable[[float], None]) -> bytes:
        builder = self.trt.Builder(self.log.logger)
        network = builder.create_network(self.dialect.network_flags)
        _parse(self.trt, self.log, network, self.job.onnx)
        shapes = _fix_inputs(network, self.job, profile)
        config = self.cache.configure(lambda file: self._configure(builder, network, shapes, step, file))
        self.log.clear()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise StageError(f"TensorRT {self.trt.__version__} cannot build {profile.file}: {self.log.errors()}")
        self.log.refuse_inconsistent(profile.file)
        self.cache.keep(config)
        return bytes(plan)

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
        for flag in self.dialect.builder_flags[self.job.precision]:
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        if self.job.capability is not None:
            trt_rtx.aim(self.trt, config, self.job.capability)
        return config


def _parse(trt: Any, log: TrtLog, network: Any, onnx_file: Path) -> None:
    """Fill the network from the ONNX file.

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
