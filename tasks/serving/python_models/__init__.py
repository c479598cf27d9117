"""Models of Triton's Python backend: they run in the server's Python, and import what lies beside them there."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_TASKS = _HERE.parents[1]
ROUTER_FILES = {
    "model.py": _HERE / "router.py",
    "routing.py": _HERE / "routing.py",
    "fitting.py": _TASKS / "backends" / "fitting.py",
    "sampling.py": _HERE.parent / "sampling.py",
}
"""What a router's version folder holds, by name there."""
ENGINE_FILES = {"model.py": _HERE / "engine.py"}
"""The same of an engine that this project's own runner runs."""
