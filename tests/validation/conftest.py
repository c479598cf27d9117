"""Shared data of the validation tests: a score and what a good engine makes of it."""

import numpy as np
import pytest
from hypothesis import settings

# A shared machine stalls, and no test here is about time; each example measures and resamples.
settings.register_profile("validation", deadline=None, max_examples=30)
settings.load_profile("validation")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)


@pytest.fixture
def score(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(2, 3, 1_000).astype(np.float32)


@pytest.fixture
def good(score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (score + rng.normal(0, 0.002, score.size)).astype(np.float32)
