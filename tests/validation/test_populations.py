"""Scores with so many columns that they are one population."""

import numpy as np
import pytest

from tests.validation.cases import run, whole
from tests.validation.independent import scores
from validation.comparison import Comparison, Population
from validation.outputs import OutputKind, OutputSpec
from validation.populations import MOST_COLUMNS


def sides(width: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    r = rng.random((n, width))
    return r, r + rng.normal(0, 0.05, r.shape)


def test_up_to_sixty_four_columns_each_is_judged_on_its_own_and_beyond_all_together() -> None:
    own, together = (run(*sides(width)) for width in (MOST_COLUMNS, MOST_COLUMNS + 1))
    assert {m.column for m in own.measurements} == {None, *range(MOST_COLUMNS)}
    assert {m.column for m in together.measurements} == {None}
    assert (own.populations, together.populations) == ((), (Population(output="out", columns=MOST_COLUMNS + 1),))
    assert all("65 columns as one population" in m.note for m in together.measurements if m.value is not None)


def test_a_population_is_measured_as_all_its_elements_are() -> None:
    r, c = sides(70)
    found = whole(run(r, c))
    expected = scores(r.ravel(), c.ravel(), np.arange(r.size) % 3)
    largest = np.abs(r - c).max(axis=1)
    for name in ("mae", "rmse", "max_abs", "relative_l2", "cosine", "bias", "pearson", "smd"):
        assert found[name].value == pytest.approx(expected[name]), name
    assert found["p99_abs"].value == pytest.approx(np.quantile(largest, 0.99, method="inverted_cdf"))
    assert {m.n for m in found.values()} == {60}


def test_of_ranks_and_distributions_one_element_of_each_sample_counts() -> None:
    found = whole(run(*sides(70)))
    said = {name for name, m in found.items() if "one element of each sample" in m.note}
    assert said == {"spearman", "ks", "ks_pvalue", "wasserstein", "kl", "qwk_drop"}


def test_labels_of_every_element_are_taken() -> None:
    r, c = sides(70)
    found = whole(run(r, c, label=r))
    assert found["mae_drop"].value == pytest.approx(np.abs(r - c).mean())


def test_cuts_between_batches_change_nothing() -> None:
    r, c = sides(70)
    assert run(r, c, cuts=[7, 20]) == run(r, c)


def test_a_wrong_sample_that_nobody_has_seen_is_wrong_in_all_its_elements() -> None:
    """The bound of a mean is that of as many samples, not of as many elements."""
    r = np.random.default_rng(0).random((300, 100))
    comparison = Comparison({"out": OutputSpec(kind=OutputKind.SCORE, low=0, high=1)})
    comparison.update({"out": r}, {"out": r})
    assert whole(comparison.result())["mae"].high == pytest.approx(3 / 300, rel=0.1)
