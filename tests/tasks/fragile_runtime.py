"""ONNX Runtime that fails at its highest level of optimisation alone, as release 1.31 does of some graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

if TYPE_CHECKING:
    import pytest


def break_highest_level(monkeypatch: pytest.MonkeyPatch, *, below: str) -> list[str]:
    """Let it fail of files in a folder of this name, and of no others; return the levels at which it loads these."""
    real, levels = ort.InferenceSession, []

    def load(model: Any, options: ort.SessionOptions | None = None, **more: Any) -> ort.InferenceSession:
        if isinstance(model, str) and Path(model).parent.name == below:
            level = (options or ort.SessionOptions()).graph_optimization_level
            levels.append(level.name)
            if level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL:
                raise RuntimeError("the layout optimiser fell over")
        return real(model, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", load)
    return levels
