"""Models of Triton's Python backend: they run in the server's Python, and import what lies beside them there.

Here, that is found beside them too: `from . import fitting` means the same file in both places.
"""

from __future__ import annotations

from pathlib import Path

from tasks.backends import fitting
from tasks.serving import sampling

__all__ = ["ENGINE_FILES", "ROUTER_FILES", "fitting", "sampling"]

_HERE = Path(__file__).parent
_TASKS = _HERE.parents[1]
ROUTER_FILES = {
    "model.py": _HERE / "router.py",
    **{
        f"{name}.py": _HERE / f"{name}.py"
        for name in ("routing", "router_metrics", "arms", "splitting", "limited_calls", "pairs")
    },
    "fitting.py": _TASKS / "backends" / "fitting.py",
    "sampling.py": _HERE.parent / "sampling.py",
}
"""What a router's version folder holds, by name there."""
ENGINE_FILES = {"model.py": _HERE / "engine.py"}
"""The same of an engine that this project's own runner runs."""
