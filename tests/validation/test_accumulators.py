"""Parts that every accumulator is made of."""

import numpy as np
import pytest

from validation.accumulators import drawn, quantile_reading, smooth
from validation.bootstrap import Bootstrap
from validation.distributions import quantile_interval
from validation.reservoir import KeptSamples
from validation.units import units_of


def keep(numbers: np.ndarray, limit: int = 1 << 20) -> KeptSamples:
    kept = KeptSamples(("x",), limit)
    kept.add({"x": numbers})
    return kept


def test_a_smooth_reading_has_value_interval_and_n() -> None:
    draws = Bootstrap(resamples=200).draw(units_of({"x": np.array([0.0, 1.0])}))
    reading = smooth(draws, 7, lambda m: m["x"], highest={"x": 9.0})
    assert (reading.value, reading.n, reading.note) == (0.5, 7, "")
    assert reading.interval == draws.interval(lambda m: m["x"], highest={"x": 9.0})


def test_a_reading_that_is_not_finite_is_undefined_and_says_why() -> None:
    draws = Bootstrap(resamples=200).draw(units_of({"x": np.zeros(3)}))
    reading = smooth(draws, 3, lambda m: 1 / m["x"], "undefined: nothing there")
    assert (reading.value, reading.note, reading.interval.low) == (None, "undefined: nothing there", None)


@pytest.mark.parametrize("quantile", [0.99, 0.01])
def test_a_quantile_s_reading_is_that_of_what_is_kept(quantile: float) -> None:
    numbers = np.random.default_rng(0).random(900)
    reading = quantile_reading(keep(numbers), "x", quantile, Bootstrap(confidence=0.9))
    assert reading.value == np.quantile(numbers, quantile, method="inverted_cdf")
    assert reading.interval == quantile_interval(numbers, quantile, 0.9)
    assert (reading.n, reading.note) == (900, "")


def test_a_reading_of_a_part_says_so() -> None:
    assert drawn(keep(np.arange(10.0), 10)) == ""
    part = keep(np.arange(5_000.0), 2_000)
    assert drawn(part) == f"of {part.column('x').size:,} samples drawn at random"
    assert quantile_reading(part, "x", 0.99, Bootstrap()).note == drawn(part)
    assert quantile_reading(part, "x", 0.99, Bootstrap()).n == part.column("x").size
