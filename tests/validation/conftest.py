"""Shared data of the validation tests: a score and what a good engine makes of it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings

from validation.comparison import Comparison, ComparisonResult
from validation.outputs import OutputKind, OutputSpec

settings.register_profile("no_deadline", deadline=None)  # A shared machine stalls; no test here is about time.
settings.load_profile("no_deadline")

Compare = Callable[..., ComparisonResult]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)


@pytest.fixture
def score(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(2, 3, 2_000).astype(np.float32)


@pytest.fixture
def good(score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (score + rng.normal(0, 0.001, score.size)).astype(np.float32)


@pytest.fixture
def compare() -> Compare:
    """Compare one output called `out` in one batch."""

    def run(
        reference: np.ndarray,
        candidate: np.ndarray,
        kind: OutputKind = OutputKind.SCORE,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> ComparisonResult:
        low, high = bounds or (None, None)
        ranges = {"out": (float(reference.min()), float(reference.max()))}
        comparison = Comparison({"out": OutputSpec(kind=kind, low=low, high=high)}, ranges)
        comparison.update({"out": reference}, {"out": candidate})
        return comparison.result()

    return run
