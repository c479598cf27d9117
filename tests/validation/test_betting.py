"""Bets on a mean: what they promise, looked at after every value."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from validation.betting import Bet
from validation.quantile_sequences import EDGES, LatencyCounts, share_bounds

ALPHA = 0.05
DRAWS = 300


def capitals(values: np.ndarray, limit: float, high: float = 1.0) -> Bet:
    bet = Bet(0.0, high, limit)
    bet.add(values)
    return bet


@pytest.mark.parametrize("kind", ["shares", "uniform", "rare and large"])
def test_a_mean_at_its_limit_is_shown_to_be_on_neither_side_oftener_than_promised(kind: str) -> None:
    g, limit = np.random.default_rng(1), 0.02
    draw = {
        "shares": lambda: (g.random(3000) < limit).astype(float),
        "uniform": lambda: g.random(3000) * 2 * limit,
        "rare and large": lambda: np.where(g.random(3000) < 2 * limit, g.random(3000), 0.0),
    }[kind]
    bets = [capitals(draw(), limit) for _ in range(DRAWS)]
    for side in ("below", "above"):
        wrong = sum(getattr(bet, side) >= log(1 / ALPHA) for bet in bets)
        assert wrong <= ALPHA * DRAWS + 3 * np.sqrt(ALPHA * DRAWS), (side, wrong)


def test_a_mean_far_within_and_one_beyond_are_shown_soon() -> None:
    g = np.random.default_rng(2)
    assert capitals(np.abs(g.normal(0, 0.0005, 300)), 0.02).below >= log(20)
    assert capitals((g.random(2000) < 0.05).astype(float), 0.01).above >= log(1000)


def test_the_capital_is_the_same_however_values_are_cut_into_batches() -> None:
    g = np.random.default_rng(3)
    values = g.random(9000) * 0.04
    whole, cut = capitals(values, 0.02), Bet(0.0, 1.0, 0.02)
    for part in np.split(values, np.sort(g.integers(0, 9000, 200))):
        cut.add(part)
    assert (whole.below, whole.above, whole.mean, whole.more(9.0)) == (cut.below, cut.above, cut.mean, cut.more(9.0))


def test_whole_values_give_about_the_capital_of_any_others_however_they_are_cut() -> None:
    g = np.random.default_rng(11)
    for likely in ((0.02, 0.95, 0.03), (0.05, 0.75, 0.2)):
        values = g.choice([-1.0, 0.0, 1.0], 5000, p=likely)
        plain = Bet(-1.0, 1.0, 0.1)
        whole, cut = (Bet(-1.0, 1.0, 0.1, whole=True) for _ in range(2))
        plain.add(values)
        whole.add(values)
        for part in np.split(values, np.sort(g.integers(0, 5000, 300))):
            cut.add(part)
        found = (whole.below, whole.above, whole.mean, whole.more(1e4))
        assert found == (cut.below, cut.above, cut.mean, cut.more(1e4))
        assert whole.mean == plain.mean
        assert max(plain.below, plain.above) > log(1000)
        for own, other in ((whole.below, plain.below), (whole.above, plain.above)):
            assert own <= other + 1e-9, "fewer looks find no more"
            assert own >= other - 10


def test_whole_values_are_bet_on_by_counts_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counted(logs: np.ndarray) -> np.ndarray:
        looks.append(len(logs))
        return np.logaddexp.reduce(logs, axis=1)

    monkeypatch.setattr("validation.betting._log_sum", counted)
    Bet(-1.0, 1.0, 0.1, whole=True).add(np.zeros(64_000))
    assert sum(looks) == 2 * 1000


def test_what_is_no_number_is_as_wrong_as_can_be_and_what_is_outside_is_cut() -> None:
    bet = capitals(np.array([np.nan, np.inf, 7.0, -1.0]), 0.5)
    assert bet.mean == pytest.approx(0.75)


def test_how_many_more_would_decide_is_about_right() -> None:
    values = np.abs(np.random.default_rng(4).normal(0, 0.006, 4000))
    started = capitals(values[:100], 0.01)
    more = started.more(log(20))
    assert more is not None
    assert capitals(values[: 100 + int(1.3 * more)], 0.01).below >= log(20)
    assert started.below < log(20)
    assert capitals(np.full(50, 0.02), 0.01).more(log(20)) is None


def test_bounds_of_a_quantile_hold_at_all_times_and_close_in() -> None:
    g = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        counts = LatencyCounts()
        for _ in range(20):
            counts.add(g.lognormal(2.0, 0.5, 100))
            low, high = counts.bounds(0.99, ALPHA)
            if not low <= np.exp(2.0 + 0.5 * 2.3263) <= high:
                wrong += 1
                break
    assert wrong <= 20, "two bounds, each wrong in one of twenty"
    counts = LatencyCounts()
    counts.add(g.lognormal(2.0, 0.5, 50_000))
    low, high = counts.bounds(0.99, ALPHA)
    assert high / low < 1.25


def test_a_histogram_counts_as_its_latencies_do_and_what_never_ended_is_beyond_all() -> None:
    values = np.random.default_rng(6).lognormal(1.0, 1.0, 1000)
    one, other = LatencyCounts(), LatencyCounts()
    one.add(values)
    counts = np.bincount(np.searchsorted(EDGES, values, side="left"), minlength=len(EDGES) + 1)
    other.add_counts(tuple(EDGES.tolist()), tuple(counts.tolist()))
    assert one.bounds(0.9, ALPHA) == other.bounds(0.9, ALPHA)
    one.add(np.full(5000, np.inf))
    assert one.bounds(0.9, ALPHA)[1] == np.inf


def test_a_share_s_bounds_hold_it_and_without_counts_say_nothing() -> None:
    assert share_bounds(0, 0, ALPHA) == (0.0, 1.0)
    low, high = share_bounds(10, 1000, ALPHA)
    assert 0.002 < low < 0.01 < high < 0.03
    assert share_bounds(0, 1000, ALPHA)[0] == 0.0
