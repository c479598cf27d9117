"""TensorRT-RTX, a second witness: a parser and builder of today's TensorRT that needs no GPU. What is its own is here.

It builds for the compute capability that it is told, and runs nothing without a driver. It is not the TensorRT of a
server: what it takes, TensorRT 11.4 takes as far as is known, and what it refuses may be for want of what it lacks.
Its plans are tried on no GPU and published nowhere.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from tasks.model.toolchain import release_of

# What a parser says of an operation that would come from a plugin, and does not.
UNKNOWN_OPERATION = ("Plugin not found", "No importer registered", "not found in plugin registry")
MODULE = "tensorrt_rtx_bindings"
DISTRIBUTION = "tensorrt-rtx-cu12-bindings"
API = (11, 4)
"""The TensorRT whose names and signatures it has, less those of plugins."""
CAPABILITIES = {"t4": "SM75", "a100": "SM80", "a10g": "SM86", "l4": "SM89"}
"""Those of our targets that it can build for: compute capability 9.0 it refuses."""
LACKING = frozenset({"NonZero", "NonMaxSuppression"})
"""Operators that TensorRT takes and it does not, beside all that come from plugins. Products in FP32 it parses, and
builds for no T4, where TensorRT does."""


def release_here() -> str | None:
    """The release that is installed, without loading it; None where there is none."""
    return release_of(DISTRIBUTION)


def import_rtx() -> Any | None:
    """TensorRT-RTX, made known to polygraphy in this process, which must not use TensorRT; None where it is missing."""
    try:
        module = importlib.import_module(MODULE)
    except (ImportError, OSError):
        return None
    sys.modules.setdefault("tensorrt_rtx", module)  # the name of NVIDIA's wrapper around it, which polygraphy imports
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    return module


def is_rtx(trt: Any) -> bool:
    """Whether a module is TensorRT-RTX."""
    return getattr(trt, "__name__", "") == MODULE


def lacks(operator: str, reason: str) -> bool:
    """Whether it refuses an operator for what it lacks itself: TensorRT may have it, or a plugin of it."""
    return operator in LACKING or any(words in reason for words in UNKNOWN_OPERATION)


def capability_of(target: str) -> str | None:
    """The compute capability of a target, or of the GPU that it is a slice of; None where it cannot build for it."""
    return CAPABILITIES.get(target.partition("-mig-")[0])


def aim(trt: Any, config: Any, capability: str) -> None:
    """Make a builder's configuration one for GPUs of this capability.

    It is one of this capability alone, with weights that stay: it has no levels of compatibility, and builds what can
    be refitted with a driver only.
    """
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
