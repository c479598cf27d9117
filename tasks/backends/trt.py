"""TensorRT on an NVIDIA GPU: the backend of every target but `cpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.backends.compatibility import SHARED
from tasks.backends.gpu import find_gpu
from tasks.backends.interface import REFIT, refits
from tasks.backends.profiles import profiles_of
from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_plan import PlanIndex
from tasks.errors import StageError
from tasks.records import BackendIdentity, EngineProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.backends.interface import BuildJob, RefitBase
    from tasks.backends.trt_engine import TensorRtEngine
    from tasks.declared import Dim
    from tasks.specs import BuildSpec, Precision


def import_tensorrt() -> Any:
    """The installed TensorRT.

    Raises:
        StageError: there is none that can be loaded, or one that is not supported.
    """
    try:
        import tensorrt  # noqa: PLC0415 - only GPU runners have it
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: the wheel that fetches libraries has failed
        raise StageError(
            f"TensorRT cannot be loaded here ({error}); pip install '.[tensorrt]' on a GPU runner"
        ) from None
    dialect_of(tensorrt)
    return tensorrt


class TensorRtBackend:
    """Engines as TensorRT plans for the GPU of this host; see the interface."""

    def identity(self) -> BackendIdentity:
        """TensorRT's version, and the GPU with its driver."""
        gpu = find_gpu()
        return BackendIdentity(
            name="tensorrt",
            version=str(import_tensorrt().__version__),
            device=gpu.name,
            compute_capability=gpu.compute_capability,
            cuda=gpu.cuda,
            driver=gpu.driver,
            mig=gpu.mig,
        )

    def takes_types(self) -> bool:
        """From 10.12 on; before, a flag lets the builder choose; see the interface."""
        return dialect_of(import_tensorrt()).takes_types

    def options(self, settings: BuildSpec, precision: Precision) -> dict[str, str]:
        """The settings of model.yaml's `build`, and what is the same for all; plugins are in the key by digest.

        What later releases added is there only where it is wanted: keys of before stay as they are.
        """
        limit = settings.memory_limit_mib
        wanted = {REFIT: refits(settings, precision), SHARED: settings.hardware_compatible}
        return {
            "optimization_level": str(settings.optimization_level),
            "memory_limit_mib": "all" if limit is None else str(limit),
            "sparsity": str(settings.sparsity).lower(),
            "cuda_graph": str(settings.cuda_graph).lower(),
            "tactics": "without cuBLAS and cuDNN",
            **_attention(settings, precision),
            **{option: "true" for option, is_wanted in wanted.items() if is_wanted},
        }

    def profiles(self, dims: Mapping[str, Dim]) -> tuple[EngineProfile, ...]:
        """One plan for each combination of buckets; see the interface."""
        return profiles_of(dims)

    def build(self, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        """Build every plan; see the interface."""
        from tasks.backends.trt_build import build_plans  # noqa: PLC0415 - only builders need onnx and polygraphy

        return build_plans(import_tensorrt(), job, progress)

    def refit(self, job: BuildJob, base: RefitBase) -> None:
        """Refit every plan; see the interface."""
        from tasks.backends.trt_refit import refit_plans  # noqa: PLC0415 - only builders need it

        refit_plans(import_tensorrt(), job, base)

    def try_otherwise(self, job: BuildJob) -> None:
        """TensorRT has no other way; see the interface."""
        del job

    def output_axes(self, plan: Path) -> dict[str, tuple[str | int, ...]]:
        """From the index beside the plans; see the interface."""
        return PlanIndex.read(plan).outputs

    def load(self, plan: Path) -> TensorRtEngine:
        """Open the engine; see the interface."""
        from tasks.backends.trt_engine import TensorRtEngine  # noqa: PLC0415 - loads CUDA

        return TensorRtEngine(import_tensorrt(), plan)


def _attention(settings: BuildSpec, precision: Precision) -> dict[str, str]:
    if settings.attention != "auto":
        return {"attention": settings.attention}
    from tasks.backends import attention_plugin  # noqa: PLC0415 - only builders need onnx

    wanted = attention_plugin.is_wanted(import_tensorrt(), settings, precision)
    return attention_plugin.describe(find_gpu()) if wanted else {}
