import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from validation.histogram import BINS, PairHistogram

PAIRS = st.integers(2, 200).flatmap(lambda n: arrays(np.float32, (2, n), elements=st.floats(-9, 9, width=32)))


def fill(reference: np.ndarray, candidate: np.ndarray) -> PairHistogram:
    histogram = PairHistogram(float(reference.min()), float(reference.max()))
    histogram.update(reference, candidate)
    return histogram


@given(PAIRS)
def test_d_at_the_edges_is_below_the_exact_d_by_at_most_the_resolution(pairs: np.ndarray) -> None:
    histogram = fill(*pairs)
    exact = stats.ks_2samp(*pairs, method="asymp").statistic
    d = histogram.ks_readings(pairs.shape[1])["ks"].value
    assert d <= exact + 1e-12
    assert exact <= d + histogram.resolution + 1e-12


def test_d_of_a_smooth_output_is_exact_to_a_thousandth(rng: np.random.Generator) -> None:
    reference = rng.normal(size=200_000)
    candidate = reference * 1.05
    histogram = fill(reference, candidate)
    d = histogram.ks_readings(1)["ks"].value
    assert histogram.resolution < 1e-3
    assert d == pytest.approx(stats.ks_2samp(reference, candidate).statistic, abs=1e-3)


def test_every_value_is_counted_once_and_those_outside_apart() -> None:
    histogram = PairHistogram(0.0, 1.0)
    histogram.update(np.array([0.0, 0.5, 1.0]), np.array([-1e30, 0.5, 1e30]))
    assert histogram.reference.sum() == histogram.candidate.sum() == 3
    assert histogram.reference[[0, 1, BINS, BINS + 1]].tolist() == [0, 1, 1, 0]
    assert histogram.candidate[[0, BINS + 1]].tolist() == [1, 1]


@given(PAIRS, st.integers(0, 200))
def test_counts_do_not_see_where_batches_are_cut(pairs: np.ndarray, cut: int) -> None:
    whole, parts = fill(*pairs), PairHistogram(float(pairs[0].min()), float(pairs[0].max()))
    for part in np.split(pairs, [min(cut, pairs.shape[1])], axis=1):
        parts.update(*part)
    assert (parts.reference == whole.reference).all()
    assert (parts.candidate == whole.candidate).all()


def test_kl_is_zero_for_equal_values_and_large_for_a_shift(rng: np.random.Generator) -> None:
    reference = rng.normal(size=10_000)
    assert fill(reference, reference).kl_reading(1, equal=True).value == 0
    shifted = fill(reference, reference + 0.5).kl_reading(1, equal=False).value
    assert shifted == pytest.approx(0.125, abs=0.03)  # shift^2 / 2 of a normal, less what ten bins lose


def test_kl_of_a_sparse_output_is_defined() -> None:
    reference = np.concatenate([np.zeros(98), [1.0, 2.0]])
    assert fill(reference, reference).kl_reading(1, equal=True).value == 0
    assert fill(reference, np.zeros(100)).kl_reading(1, equal=False).value > 0


def test_kl_of_a_constant_reference_is_undefined_unless_equal() -> None:
    constant = np.full(10, 2.0)
    assert fill(constant, constant).kl_reading(1, equal=True).value == 0
    undefined = fill(constant, constant + 1).kl_reading(1, equal=False)
    assert undefined.value is None
    assert "constant" in undefined.note


@pytest.mark.parametrize("ends", [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_range_that_is_no_interval_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no interval"):
        PairHistogram(*ends)
