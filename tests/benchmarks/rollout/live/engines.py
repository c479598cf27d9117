"""The engines of the live rollout: a good one, and five that are wrong in the ways in which engines go wrong.

Each is a real ONNX graph that ONNX Runtime runs; `expected` says by numpy what it answers, so that a client can tell
whose answer it got.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.tasks.tiny import SCORER, score

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]

SLICE = "sw"
"""The language whose users have a large last feature."""
SHARE_OF_SLICE = 0.1
_FROM = 2.0
_FAILS_FROM = 2.33  # a standard normal number is above it once in a hundred
_S = SCORER.replace("score =", "s =")
_ONE_FEATURE = (
    "i = Constant<value_ints = [{feature}]>()  g = Gather<axis = 1>(features, i)"
    "  f = Squeeze(g, one)  limit = Constant<value_float = {limit}>()  above = Greater(f, limit)"
)


@dataclass(frozen=True)
class LiveEngine:
    """A graph in ONNX's own text, and what it answers; None where it cannot be loaded at all."""

    body: str | None
    expected: Callable[[Array], Array]


def _scaled(factor: float) -> LiveEngine:
    return LiveEngine(
        f"{_S}  k = Constant<value_float = {factor}>()  score = Mul(s, k)",
        lambda features: score(features) * np.float32(factor),
    )


def good(number: int = 0) -> LiveEngine:
    """As near as INT8 of a good calibration: off by 0.0003 in the mean. `number` tells several apart."""
    return _scaled(1 - 0.0005 * (1 + 0.1 * number))


def damaged() -> LiveEngine:
    """INT8 that was calibrated on too narrow a range: features are clipped to ±0.5."""
    limits = "low = Constant<value_float = -0.5>()  high = Constant<value_float = 0.5>()"
    body = f"{limits}  c = Clip(features, low, high)  {SCORER.replace('Mul(features', 'Mul(c')}"
    return LiveEngine(body, lambda features: score(np.clip(features, -0.5, 0.5)))


def one_slice() -> LiveEngine:
    """Answers 0.1 too low for one language, and all others rightly."""
    body = (
        f"{_S}  {_ONE_FEATURE.format(feature=3, limit=_FROM)}  b = Cast<to = 1>(above)"
        "  k = Constant<value_float = 0.1>()  d = Mul(b, k)  score = Sub(s, d)"
    )
    return LiveEngine(body, lambda features: score(features) - np.float32(0.1) * (features[:, 3] > _FROM))


def slow() -> LiveEngine:
    """Right, and slow: it multiplies two matrices of 1,200 by 1,200 before each answer."""
    large = "r = ReduceMax<keepdims = 0>(features)  shape = Constant<value_ints = [1200, 1200]>()  e = Expand(r, shape)"
    nothing = (
        "q = MatMul(e, e)  u = ReduceMean<keepdims = 0>(q)  zero = Constant<value_float = 0.0>()  v = Mul(u, zero)"
    )
    return LiveEngine(f"{_S}  {large}  {nothing}  score = Add(s, v)", score)


def errors() -> LiveEngine:
    """Right, and fails on one request in a hundred: an index leads out of a table."""
    body = (
        f"{_S}  {_ONE_FEATURE.format(feature=0, limit=_FAILS_FROM)}  n = Cast<to = 7>(above)"
        "  k = Constant<value_ints = [5]>()  at = Mul(n, k)  table = Constant<value_floats = [0.0]>()"
        "  y = Gather(table, at)  score = Add(s, y)"
    )
    return LiveEngine(body, score)


def crash() -> LiveEngine:
    """Cannot be loaded."""
    return LiveEngine(None, score)
