"""ONNX Runtime on the CPU: the backend of target `cpu`, and what stands in for a GPU where there is none."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from tasks.errors import StageError
from tasks.graphs.custom_ops import copy_libraries, register_libraries
from tasks.graphs.level import LOWERED_IN_WORDS, is_lowered, lower_level, set_level
from tasks.records import BackendIdentity, EngineProfile
from tasks.specs import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

    from tasks.backends.interface import BuildJob, LayerTime, RefitBase
    from tasks.declared import Dim
    from tasks.specs import BuildSpec

PLAN_FILE = "engine.onnx"
WEIGHTS_FILE = "engine.onnx.data"
PROVIDERS = ["CPUExecutionProvider"]
EXTERNAL_WEIGHTS_BYTES = 1 << 30
ROUNDED = {Precision.FP16, Precision.BF16, Precision.FP8}
"""Precisions that the processor does not compute in."""
LOG_ERRORS_ONLY = 3


def session_options() -> ort.SessionOptions:
    """Options of every session here: errors only on the log, and no threads that spin between two calls."""
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeEngine:
    """A loaded session. See the interface."""

    def __init__(self, file: Path) -> None:
        options = session_options()
        register_libraries(options, file)
        set_level(options, file)
        try:
            self._session = ort.InferenceSession(str(file), options, providers=PROVIDERS)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
            raise StageError(f"ONNX Runtime cannot load the engine: {error}") from None
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run one batch; see the interface."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))

    def unused_plans(self) -> tuple[str, ...]:
        """None: there is one plan, and `compare` runs it; see the interface."""
        return ()

    def timed_call(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], float]:
        """The wall time of `run`; see the interface."""

        def call() -> float:
            started = time.perf_counter()
            self.run(feeds)
            return 1000 * (time.perf_counter() - started)

        return call

    def device_memory_bytes(self) -> None:
        """The CPU has no memory of its own; see the interface."""

    def layer_times(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[LayerTime]:
        """None are measured; see the interface."""
        del feeds
        return []


class OnnxRuntimeBackend:
    """Engines as graphs that ONNX Runtime has optimised ahead of time; see the interface."""

    def identity(self) -> BackendIdentity:
        """ONNX Runtime's version, and the processor with its cores: a benchmark holds for these only."""
        cores = len(os.sched_getaffinity(0))
        return BackendIdentity(
            name="onnxruntime", version=ort.__version__, device=f"{platform.machine()} {_processor()}, {cores} cores"
        )

    def takes_types(self) -> bool:
        """It gains nothing by FP16; see the interface."""
        return False

    def options(self, settings: BuildSpec, precision: Precision) -> dict[str, str]:
        """The level is the highest whose result does not depend on this processor's instruction set."""
        del settings
        rounding = {precision.value: "rounded after each operation"} if precision in ROUNDED else {}
        return {"graph_optimization_level": "extended", **rounding}

    def profiles(self, dims: Mapping[str, Dim]) -> tuple[EngineProfile, ...]:
        """One graph takes every shape; see the interface."""
        return (EngineProfile(file=PLAN_FILE, dims={name: dim.without_buckets() for name, dim in dims.items()}),)

    def build(self, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        """Optimise the graph offline and write it; shapes stay dynamic, and narrow floats round (`graphs.cpu_form`).

        It is then loaded as it will be, since that can end this process (`graphs.level`).
        """
        del progress
        options = session_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(job.plan / PLAN_FILE)
        if sum(file.stat().st_size for file in job.onnx.parent.iterdir()) > EXTERNAL_WEIGHTS_BYTES:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(job.onnx.parent))
        copy_libraries(job.onnx, job.plan)
        register_libraries(options, job.onnx)
        try:
            ort.InferenceSession(_source_of(job), options, providers=PROVIDERS)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
            raise StageError(f"ONNX Runtime cannot build an engine from the converted model: {error}") from None
        if is_lowered(job.onnx):
            lower_level(job.plan)
        self.load(job.plan)
        return ()

    def refit(self, job: BuildJob, base: RefitBase) -> None:
        """An engine here is a graph, which is made in seconds; see the interface."""
        del job, base
        raise StageError("ONNX Runtime has nothing to refit; build the engine")

    def try_otherwise(self, job: BuildJob) -> str | None:
        """Load the engine at a lower level; see the interface."""
        if is_lowered(job.onnx):
            return None
        lower_level(job.onnx.parent)
        return LOWERED_IN_WORDS

    def output_axes(self, plan: Path) -> dict[str, tuple[str | int, ...]]:
        """From the file: an engine that ends the process that loads it must not end this one. See the interface."""
        import onnx  # noqa: PLC0415 - few commands need it
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - onnx brings it

        try:
            graph = onnx.load(str(plan / PLAN_FILE), load_external_data=False).graph
        except (OSError, DecodeError) as error:
            raise StageError(f"ONNX Runtime cannot load the engine: {error}") from None
        if not graph.output:
            raise StageError(f"ONNX Runtime cannot load the engine: {PLAN_FILE} is no graph with outputs")
        return {output.name: _axes(output.name, output.type.tensor_type.shape.dim) for output in graph.output}

    def load(self, plan: Path) -> OnnxRuntimeEngine:
        """Load the optimised graph."""
        return OnnxRuntimeEngine(plan / PLAN_FILE)


def _axes(name: str, dims: Iterable[Any]) -> tuple[str | int, ...]:
    """The extent of each axis, or the name of what varies: its own, else one of its place."""
    return tuple(
        dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else f"{name}_{place}")
        for place, dim in enumerate(dims)
    )


def _source_of(job: BuildJob) -> str | bytes:
    """The graph to build from: its file, or of a precision that the processor lacks one that rounds as that does."""
    if job.precision not in ROUNDED:
        return str(job.onnx)
    import onnx  # noqa: PLC0415 - only builders need it

    from tasks.graphs.cpu_form import as_cpu_runs  # noqa: PLC0415 - the same

    graph = onnx.load(str(job.onnx), load_external_data=False)
    return graph.SerializeToString() if as_cpu_runs(graph) else str(job.onnx)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
