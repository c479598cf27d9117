from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.quantization.layer_search import PrecisionSearch
from tests.tasks.tiny import tiny_spec

RANKED = tuple(f"layer{number}" for number in range(16))


def run(search: PrecisionSearch, passes_from: int, faster_below: int) -> list[int]:
    """Answer every try: it passes from so many layers on, and is faster than FP16 below so many. Returns the tries."""
    tries = []
    while (excluded := search.next()) is not None:
        tries.append(len(excluded))
        search.tell(excluded, len(excluded) >= passes_from, len(excluded) < faster_below)
    return tries


@given(layers=st.integers(0, 300), passes_from=st.integers(1, 320), faster_below=st.integers(0, 320))
def test_it_finds_what_trying_every_number_of_layers_finds(layers: int, passes_from: int, faster_below: int) -> None:
    ranked = tuple(f"layer{number}" for number in range(layers))
    search = PrecisionSearch(ranked)
    tries = run(search, passes_from, faster_below)
    passing = [number for number in range(1, layers) if number >= passes_from]
    worth = [number for number in passing[:1] if number < faster_below]
    assert search.best == (ranked[: worth[0]] if worth else None)
    assert len(tries) == len(set(tries))
    assert len(tries) <= 2 * log2(layers) + 2 if layers else not tries
    assert all(0 < number < layers for number in tries)


@given(layers=st.integers(1, 60), answers=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=60, max_size=60))
def test_whatever_it_is_told_it_ends_without_trying_twice(layers: int, answers: list[tuple[bool, bool]]) -> None:
    """Measured outcomes need not be in order."""
    ranked = tuple(f"layer{number}" for number in range(layers))
    search, tries, best = PrecisionSearch(ranked), [], None
    for passed, faster in answers:
        if (excluded := search.next()) is None:
            break
        tries.append(excluded)
        search.tell(excluded, passed, faster)
        if passed and faster:
            best = excluded
    assert search.next() is None
    assert len(tries) == len(set(tries))
    assert search.best == best


def test_one_layer_that_is_enough_takes_one_try() -> None:
    search = PrecisionSearch(RANKED)
    assert run(search, passes_from=1, faster_below=16) == [1]
    assert search.best == RANKED[:1]


def test_it_doubles_and_then_bisects() -> None:
    search = PrecisionSearch(RANKED)
    assert run(search, passes_from=6, faster_below=16) == [1, 2, 4, 8, 6, 5]
    assert search.best == RANKED[:6]


def test_it_ends_where_a_failed_engine_is_no_faster_than_fp16() -> None:
    search = PrecisionSearch(RANKED)
    assert run(search, passes_from=10, faster_below=4) == [1, 2, 4]
    assert search.best is None


def test_an_engine_that_passes_but_is_no_faster_leads_to_smaller_ones_that_are() -> None:
    search = PrecisionSearch(RANKED)
    assert run(search, passes_from=5, faster_below=7) == [1, 2, 4, 8, 6, 5]
    assert search.best == RANKED[:5]


def test_all_layers_are_never_left_out() -> None:
    search = PrecisionSearch(RANKED)
    assert run(search, passes_from=99, faster_below=99) == [1, 2, 4, 8, 15]
    assert PrecisionSearch(RANKED[:1]).next() is None


def test_news_of_another_try_are_refused() -> None:
    search = PrecisionSearch(RANKED)
    with pytest.raises(ValueError, match="not the try that next"):
        search.tell(RANKED[:3], passed=True, faster_than_fp16=True)


def test_a_precision_search_without_int8_is_refused() -> None:
    with pytest.raises(ValidationError, match="precision_search: true, but precisions has no int8"):
        tiny_spec(precision_search=True, precisions=["fp16"])
    assert tiny_spec(precision_search=True, precisions=["int8"], calibration={"set": "x"}).precision_search
