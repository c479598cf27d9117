"""Where engines are built and run: one module a runtime. `tasks.runtimes` is their table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tasks.runtimes import RUNTIMES

if TYPE_CHECKING:
    from tasks.backends.interface import Backend

CPU = "cpu"


def backend_of(runtime: str) -> Backend:
    """The backend of a runtime. Whether this host has it, and the engine's target, shows when it is asked for work."""
    module, _, name = RUNTIMES[runtime].backend.partition(":")
    backend: Backend = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return backend
