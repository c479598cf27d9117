"""Sums over a sample's elements against plain numpy, whatever the shape, the order in memory or the mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation import elements
from validation.elements import NAMES, element_sums


def plainly(r: np.ndarray, c: np.ndarray, mask: np.ndarray | None) -> tuple[dict[str, list[float]], list[float]]:
    sums: dict[str, list[float]] = {name: [] for name in NAMES}
    largest = []
    for row in range(len(r)):
        counted = np.ones(r[row].shape, dtype=bool)
        if mask is not None:
            trailing = (1,) * (r[row].ndim - mask[row].ndim)
            counted &= np.reshape(mask[row], mask[row].shape + trailing)
        a, b = r[row][counted].astype(float), c[row][counted].astype(float)
        found = {
            "abs": np.abs(a - b),
            "squares": (a - b) ** 2,
            "reference_squares": a**2,
            "candidate_squares": b**2,
            "products": a * b,
            "elements": np.ones(a.size),
        }
        for name in NAMES:
            sums[name].append(found[name].sum())
        largest.append(np.abs(a - b).max(initial=0.0))
    return sums, largest


@given(
    st.sampled_from([(), (1,), (7,), (3, 5), (2, 3, 4)]),
    st.integers(1, 9),
    st.integers(0, 2),
    st.sampled_from([1, 8, 1 << 18]),
)
def test_element_sums_are_those_of_plain_numpy(shape: tuple[int, ...], n: int, masked: int, block: int) -> None:
    rng = np.random.default_rng(n)
    r, c = rng.normal(size=(2, n, *shape)).astype(np.float32)
    mask = None if masked == 0 else rng.random((n, *shape)[: min(masked, 1 + len(shape))]) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "_BLOCK", block)
        sums, largest = element_sums(r, c, mask)
    expected, furthest = plainly(r, c, mask)
    assert list(sums) == list(NAMES)
    for name in NAMES:
        np.testing.assert_allclose(sums[name], expected[name], rtol=1e-12, atol=1e-12)
    assert largest.tolist() == furthest


def test_samples_wider_than_a_block_are_summed_whole(rng: np.random.Generator) -> None:
    r, c = rng.random((2, 3, 400_000), dtype=np.float32)
    sums, largest = element_sums(r, c, None)
    error = np.abs(r.astype(np.float64) - c)
    np.testing.assert_allclose(sums["abs"], error.sum(axis=1))
    assert largest.tolist() == error.max(axis=1).tolist()


def test_whole_numbers_do_not_wrap_around() -> None:
    sums, largest = element_sums(np.array([[0], [255]], np.uint8), np.array([[255], [0]], np.uint8), None)
    assert largest.tolist() == [255, 255]
    assert sums["products"].tolist() == [0, 0]


def test_what_a_mask_leaves_out_may_be_anything() -> None:
    r, c = np.array([[1.0, np.nan]]), np.array([[1.5, np.inf]])
    sums, largest = element_sums(r, c, np.array([[True, False]]))
    assert sums["abs"].tolist() == [0.5]
    assert sums["elements"].tolist() == [1]
    assert largest.tolist() == [0.5]
