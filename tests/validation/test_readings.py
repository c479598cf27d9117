import numpy as np
import pytest

from validation.metrics import Reading
from validation.moments import pair_moments
from validation.readings import moment_readings


def reading(metric: str, reference: list[float], candidate: list[float]) -> Reading:
    return moment_readings(pair_moments(np.array(reference), np.array(candidate)), len(reference))[metric]


@pytest.mark.parametrize(
    ("reference", "candidate", "says"),
    [
        ([1, 2, 3], [5, 5, 5], "the candidate is constant"),
        ([0.1, 0.1, 0.1], [1, 2, 3], "the reference is constant"),
        ([0.1, 0.1, 0.1], [0.2, 0.2, 0.2], "the reference and the candidate are constant"),
    ],
)
def test_pearson_of_a_constant_side_is_undefined_and_says_which(
    reference: list[float], candidate: list[float], says: str
) -> None:
    result = reading("pearson", reference, candidate)
    assert result.value is None
    assert says in result.note


def test_pearson_of_two_equal_constants_is_one_with_a_note() -> None:
    result = reading("pearson", [0.1, 0.1, 0.1], [0.1, 0.1, 0.1])
    assert result.value == 1.0
    assert result.note == "both sides are constant and equal"


def test_pearson_of_a_variance_below_float64_is_undefined() -> None:
    assert reading("pearson", [0, 1e-200], [0, 1e-200]).value is None


def test_relative_l2_is_the_ratio_of_norms() -> None:
    assert reading("relative_l2", [3, 4], [3, 5]).value == pytest.approx(0.2)


def test_relative_l2_of_a_zero_reference_is_undefined_unless_both_are_zero() -> None:
    assert reading("relative_l2", [0, 0], [0, 1]).value is None
    assert reading("relative_l2", [0, 0], [0, 0]).value == 0.0
