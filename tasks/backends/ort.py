"""ONNX Runtime on the CPU: the backend of target `cpu`, and what stands in for a GPU where there is none."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from tasks.errors import StageError
from tasks.specs import BackendIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from tasks.specs import Dim, InputSpec

PLAN_FILE = "engine.onnx"
WEIGHTS_FILE = "engine.onnx.data"
PROVIDERS = ["CPUExecutionProvider"]
EXTERNAL_WEIGHTS_BYTES = 1 << 30
LOG_ERRORS_ONLY = 3


def session_options() -> ort.SessionOptions:
    """Options of every session here: errors only on the log, and no threads that spin between two calls."""
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeEngine:
    """A loaded session. See the interface."""

    def __init__(self, plan: Path) -> None:
        try:
            self._session = ort.InferenceSession(str(plan / PLAN_FILE), session_options(), providers=PROVIDERS)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
            raise StageError(f"ONNX Runtime cannot load the engine: {error}") from None
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run one batch; see the interface."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


class OnnxRuntimeBackend:
    """Engines as graphs that ONNX Runtime has optimised ahead of time; see the interface."""

    def identity(self) -> BackendIdentity:
        """ONNX Runtime's version, and the processor with its cores: a benchmark holds for these only."""
        cores = len(os.sched_getaffinity(0))
        return BackendIdentity(
            name="onnxruntime", version=ort.__version__, device=f"{platform.machine()} {_processor()}, {cores} cores"
        )

    def options(self) -> dict[str, str]:
        """The level is the highest whose result does not depend on this processor's instruction set."""
        return {"graph_optimization_level": "extended"}

    def build(self, onnx: Path, plan: Path, inputs: Mapping[str, InputSpec], dims: Mapping[str, Dim]) -> None:
        """Optimise the graph offline and write it; shapes stay dynamic, so `inputs` and `dims` are not needed."""
        del inputs, dims
        options = session_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(plan / PLAN_FILE)
        if sum(file.stat().st_size for file in onnx.parent.iterdir()) > EXTERNAL_WEIGHTS_BYTES:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
        try:
            ort.InferenceSession(str(onnx), options, providers=PROVIDERS)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
            raise StageError(f"ONNX Runtime cannot build an engine from the converted model: {error}") from None

    def load(self, plan: Path) -> OnnxRuntimeEngine:
        """Load the optimised graph."""
        return OnnxRuntimeEngine(plan)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
