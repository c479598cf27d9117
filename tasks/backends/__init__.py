"""Where engines are built and run: one module a runtime, chosen by target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import StageError

if TYPE_CHECKING:
    from tasks.backends.interface import Backend


def backend_for(target: str) -> Backend:
    """The backend that builds engines for `target` on this host.

    Raises:
        StageError: this host cannot build for it.
    """
    if target == "cpu":
        from tasks.backends.ort import OnnxRuntimeBackend  # noqa: PLC0415 - loads native libraries

        return OnnxRuntimeBackend()
    raise StageError(
        f"target {target} needs a runner with that GPU and TensorRT, and this release builds on `cpu` only;"
        " convert with --target cpu"
    )
