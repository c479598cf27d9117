"""Pairs as a router of the tiny scorer sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.serving.python_models.pairs import Pair


def pair(samples: int = 1, **changes: Any) -> Pair:
    score = {"score": np.full(samples, 0.5, np.float32)}
    fields: dict[str, Any] = {
        "key": "ab",
        "step": 2,
        "noise": False,
        "failed": "",
        "latency_ms": (1.0, 2.0),
        "production": score,
        "canary": score,
    }
    return Pair(**{**fields, **changes})
