"""What a backend does: builds engines for its targets, and loads and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.declared import Dim, Frozen, InputSpec
from tasks.specs import BuildSpec, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from tasks.records import BackendIdentity, EngineProfile


class BuildJob(Frozen):
    """What to build, and where: a typed ONNX file into the empty folder `plan`.

    `plugins` are shared libraries that the engine needs. `timing_cache` is a file that the backend may read and
    replace, to time no kernel twice; None where nothing is kept. `capability` is that of the GPU to build for, as
    `SM86`, where the builder needs none of it here: TensorRT-RTX alone.

    A backend that chooses among kernels writes what it chose into the empty folder `tactics`. `pinned` is that folder
    of a build whose choice is to be made again, `avoid` are those of builds whose choices are not.
    """

    onnx: Path
    plan: Path
    precision: Precision
    inputs: dict[str, InputSpec]
    dims: dict[str, Dim]
    settings: BuildSpec
    plugins: tuple[Path, ...] = ()
    timing_cache: Path | None = None
    tactics: Path | None = None
    pinned: Path | None = None
    avoid: tuple[Path, ...] = ()
    capability: str | None = None


REFIT = "refit"
"""The option of engines that can be refitted."""


def refits(settings: BuildSpec, precision: Precision) -> bool:
    """Whether engines of a precision can take other weights, where model.yaml asks for it.

    Not quantized ones: other weights have other scales, and TensorRT bakes those of Q/DQ nodes into the plan.
    """
    return settings.refit and not precision.is_quantized


class RefitBase(Frozen):
    """An engine that was built with the option REFIT: its folder, and the ONNX file that it was built from."""

    plan: Path
    onnx: Path


@dataclass(frozen=True)
class LayerTime:
    """A layer of an engine: its name, kind, what it computes with, and its median time in milliseconds."""

    name: str
    kind: str
    formats: str
    tactic: str
    time_ms: float


class Engine(Protocol):
    """An engine, loaded on its device."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name for one batch. Every named dimension of `feeds` lies within the engine's dims."""

    def unused_plans(self) -> tuple[str, ...]:
        """The files of those plans of the engine that no call has run so far."""

    def timed_call(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], float]:
        """A function that runs one batch and returns how long that took, in milliseconds.

        On a GPU that is the time on the device, with inputs and outputs there; on the CPU it is the call's.
        """

    def device_memory_bytes(self) -> int | None:
        """Memory on the device that the engine has taken so far; None on the CPU."""

    def layer_times(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[LayerTime]:
        """The engine's layers with the time of each for one batch, in order; empty where the runtime tells none."""


class Backend(Protocol):
    """A runtime on this host."""

    def identity(self) -> BackendIdentity:
        """What an engine built here depends on, beside its ONNX file and options.

        Raises:
            StageError: the runtime or its device is not here, or is one that is not supported.
        """

    def takes_types(self) -> bool:
        """Whether its builder runs in FP16 only what the graph has in FP16, and gains by it.

        Raises:
            StageError: as `identity`.
        """

    def options(self, settings: BuildSpec, precision: Precision) -> dict[str, str]:
        """The builder's options for engines of a precision; they are a part of the cache key."""

    def profiles(self, dims: Mapping[str, Dim]) -> tuple[EngineProfile, ...]:
        """The plans that an engine of these dims consists of."""

    def build(self, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        """Build an engine; return warnings, a sentence each.

        Raises:
            StageError: the runtime cannot build it.
        """

    def refit(self, job: BuildJob, base: RefitBase) -> None:
        """Make the engine of `job` from one whose graph differs by the values of its weights alone.

        Raises:
            StageError: a value that differs cannot be changed in the built engine, or the runtime cannot do this.
        """

    def try_otherwise(self, job: BuildJob) -> str | None:
        """Change what lies beside the graph of a job whose build failed, or died, so that another may work.

        Returns what is then true of the engine, to follow "it is"; None where there is no other way.
        """

    def output_axes(self, plan: Path) -> dict[str, tuple[str | int, ...]]:
        """Per output of the engine in folder `plan`, the name of each axis that varies, and the extent of the others.

        Raises:
            StageError: the engine cannot be read.
        """

    def load(self, plan: Path) -> Engine:
        """Load the engine in folder `plan`, whose digest and compatibility the caller has checked.

        Raises:
            StageError: the runtime cannot load it.
        """
