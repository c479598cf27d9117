"""Where engines are built and run: one module a runtime, chosen by target."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.backends.interface import Backend

CPU = "cpu"


def backend_for(target: str) -> Backend:
    """The backend of a target. Whether this host is that target shows when it is asked to do something."""
    if target == CPU:
        from tasks.backends.ort import OnnxRuntimeBackend  # noqa: PLC0415 - loads native libraries

        return OnnxRuntimeBackend()
    from tasks.backends.trt import TensorRtBackend  # noqa: PLC0415 - as above

    return TensorRtBackend()
