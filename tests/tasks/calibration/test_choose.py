from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.calibration.choose import choose_samples, share_out
from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SEEDS = range(40)


def choose(
    cells: Sequence[tuple[str, ...]], size: int, scores: Any = None, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.int64]]:
    return choose_samples(cells, scores, size, np.random.default_rng(seed))


def shares_one_by_one(available: Sequence[int], size: int, priority: Sequence[int]) -> list[int]:
    """The same by giving single samples, always to the place with the fewest of those that have more."""
    shares = [0] * len(available)
    for _ in range(min(size, sum(available))):
        open_places = [place for place in priority if shares[place] < available[place]]
        shares[min(open_places, key=lambda place: shares[place])] += 1
    return shares


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 200), st.randoms(use_true_random=False))
def test_shares_are_what_giving_one_by_one_comes_to(available: list[int], size: int, random: Any) -> None:
    priority = list(range(len(available)))
    random.shuffle(priority)
    assert share_out(available, size, priority) == shares_one_by_one(available, size, priority)


def test_what_a_rare_cell_lacks_goes_to_the_others() -> None:
    assert share_out([100, 2, 100], 32, [1, 2, 0]) == [15, 2, 15]
    assert share_out([100, 2, 5], 32, [0, 1, 2]) == [25, 2, 5]
    assert share_out([10, 10, 10], 11, [2, 0, 1]) == [4, 3, 4]


CELLS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=6, max_size=80)


@settings(deadline=None)
@given(CELLS, st.data())
def test_every_value_is_shown_and_no_sample_twice(cells: list[tuple[str, str]], data: st.DataObject) -> None:
    size = data.draw(st.integers(6, len(cells)))
    scores = data.draw(st.none() | st.lists(st.floats(-9, 9), min_size=len(cells), max_size=len(cells)))
    chosen = choose(cells, size, None if scores is None else np.array(scores), data.draw(st.integers(0, 9)))
    assert len(set(chosen.tolist())) == size
    assert np.array_equal(chosen, np.sort(chosen))
    drawn = Counter(cells[index] for index in chosen)
    assert set(drawn) == set(cells)  # six cells at most
    available = Counter(cells)
    most = max(drawn.values())
    assert all(drawn[cell] >= min(available[cell], most - 1) for cell in available)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_more_cells_than_samples_every_value_is_shown(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [(str(a), str(b), str(c)) for a, b, c in rng.integers(0, [8, 8, 8], (2000, 3))]
    assert len(set(cells)) > 400
    chosen = choose(cells, 32, seed=seed)
    for place in range(3):
        assert {cells[index][place] for index in chosen} == {str(value) for value in range(8)}


def test_a_size_that_cannot_show_every_value_is_refused_with_the_one_that_can() -> None:
    cells = [(str(value),) for value in range(40)]
    with pytest.raises(InputError, match=r"size 32: cannot show all values of the strata, 40 samples can"):
        choose(cells, 32)
    assert len(choose(cells, 40)) == 40


def test_without_strata_or_scores_every_sample_has_the_same_chance() -> None:
    drawn = np.zeros(50)
    for seed in range(2000):
        drawn[choose([()] * 50, 10, seed=seed)] += 1
    # A sample's count is binomial(2000, 0.2): standard deviation 17.9, and 50 of them stay within 4.5 of these.
    assert np.abs(drawn - 400).max() < 4.5 * 17.9


@pytest.mark.parametrize("seed", SEEDS)
def test_both_tails_of_a_cell_have_a_sample_where_20_are_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [("rare",)] * 100 + [("common",)] * 900
    scores = rng.permutation(1000).astype(float)
    chosen = choose(cells, 40, scores, seed)
    for pool in (np.arange(100), np.arange(100, 1000)):
        drawn = np.intersect1d(chosen, pool)
        assert len(drawn) == 20
        rank = np.argsort(np.argsort(scores[pool]))[np.searchsorted(pool, drawn)]
        assert (rank < 0.05 * len(pool)).any()
        assert (rank >= 0.95 * len(pool)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_at_most_a_tenth_of_a_cell_is_swapped_for_its_tails(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [(str(value),) for value in rng.choice(4, 3000, p=[0.7, 0.2, 0.09, 0.01])]
    chosen = set(choose(cells, 100, rng.standard_normal(3000), seed).tolist())
    by_chance = set(choose(cells, 100, None, seed).tolist())
    came, left = (Counter(cells[index] for index in some) for some in (chosen - by_chance, by_chance - chosen))
    assert came == left
    assert max(came.values(), default=0) <= 2  # a tenth of 25 in each cell, rounded down


@pytest.mark.parametrize("seed", SEEDS)
def test_where_cells_draw_too_few_to_swap_the_tails_of_all_are_shown(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [(str(value),) for value in range(18)] * 200
    scores = rng.permutation(3600).astype(float)
    chosen = choose(cells, 36, scores, seed)
    assert max(Counter(cells[index] for index in chosen).values()) == 2
    assert (scores[chosen] < 180).any()
    assert (scores[chosen] >= 3420).any()
    assert len(set(chosen.tolist()) - set(choose(cells, 36, None, seed).tolist())) <= 2


def test_one_score_for_all_has_tails_everywhere() -> None:
    cells = [("a",)] * 50 + [("b",)] * 50
    assert np.array_equal(choose(cells, 40, np.zeros(100)), choose(cells, 40))


def test_the_seed_decides_alone() -> None:
    cells = [("a",), ("b",)] * 100
    scores = np.arange(200.0)
    assert np.array_equal(choose(cells, 40, scores, 3), choose(cells, 40, scores, 3))
    assert not np.array_equal(choose(cells, 40, scores, 3), choose(cells, 40, scores, 4))
