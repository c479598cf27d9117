"""Whether a host may load an engine: decided from what its manifest says, before a byte of the plan is read.

A plan is native code for one GPU architecture and one release of TensorRT; deserialised elsewhere it crashes at
best. On the CPU an engine is a graph, which every host with ONNX Runtime may load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.backends.gpu import target_of
from tasks.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records import BackendIdentity

SHARED = "hardware_compatible"
"""The option of engines that every GPU of the compute capability loads that they were built on."""


def refuse_elsewhere(built: BackendIdentity, here: BackendIdentity, options: Mapping[str, str], target: str) -> None:
    """Refuse to load on `here` what was built on `built` with these options, and is an engine of `target`.

    One with the option SHARED may have been built on another GPU than its target's, on which it was measured.

    Raises:
        RefusedError: saying for what it was built, what this host has, and what to do.
    """
    remedy = _remedy(built, here, target if SHARED in options else target_of(built.device, built.mig))
    if remedy is not None:
        raise RefusedError(f"built for {_describe(built)}; this host has {_describe(here, like=built)}: {remedy}")


def _remedy(built: BackendIdentity, here: BackendIdentity, wanted: str | None) -> str | None:
    """What to do about the first difference that forbids loading, or None where nothing forbids it."""
    if built.name != here.name:
        return f"load it with {built.name}"
    if built.compute_capability is None:
        return None
    target = target_of(here.device, here.mig)
    if built.compute_capability != here.compute_capability or wanted != target:
        return "no target is made for this GPU" if target is None else f"build target {target} instead"
    if built.version != here.version:
        return f"install tensorrt=={built.version} here, or convert on a runner with {here.version}"
    if _major(here.cuda) < _major(built.cuda):
        return f"install a driver for CUDA {built.cuda} or newer"
    return None


def _major(version: str | None) -> int:
    return int((version or "0").partition(".")[0])


def _describe(identity: BackendIdentity, like: BackendIdentity | None = None) -> str:
    """The GPU with its SM, and the release of TensorRT and CUDA where they are not those of `like`."""
    if identity.compute_capability is None:
        return f"{identity.name} {identity.version}"
    parts = [f"{identity.device} (SM {identity.compute_capability})"]
    if like is None or identity.version != like.version or identity.name != like.name:
        parts.append(f"TensorRT {identity.version}")
    if like is not None and _major(identity.cuda) < _major(like.cuda):
        parts.append(f"CUDA {identity.cuda}")
    return " with ".join(parts[:2]) + "".join(f" and {part}" for part in parts[2:])
