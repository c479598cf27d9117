"""The figure of all rules: what it draws and says. How it looks was judged by eye."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.rule_view import JudgedRule
from tasks.tracking.rule_figure import MOST_RULES, draw_rules
from tests.tasks.tracking.test_figures import ENGINE_ID, _png, _texts
from validation.verdict import Outcome


def _rule(**changes: Any) -> JudgedRule:
    fields: dict[str, Any] = {
        "output": "score",
        "metric": "mae",
        "side": "max",
        "limit": 0.01,
        "ideal": 0.0,
        "value": 0.004,
        "low": 0.003,
        "high": 0.006,
        "n": 2000,
        "outcome": Outcome.PASS,
        "margin": 0.4,
        "sentence": "",
    }
    return JudgedRule(**(fields | changes))


BIAS = {"metric": "bias", "side": "within", "limit": 0.005}
PEARSON = {"metric": "pearson", "side": "min", "limit": 0.9, "ideal": 1.0}


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({}, (0.3, 0.6)),
        (BIAS | {"value": -0.002, "low": -0.003, "high": -0.001}, (0.2, 0.6)),
        (BIAS | {"value": 0.0, "low": -0.003, "high": 0.001}, (0.0, 0.6)),
        (PEARSON | {"value": 0.95, "low": 0.94, "high": 0.96}, (0.4, 0.6)),
        (
            {"output": None, "ideal": None, "side": "min", "limit": 1.0, "value": 2.0, "low": 1.6, "high": 2.5},
            (0.4, 0.625),
        ),
        ({"metric": "mae_drop", "value": -0.002, "low": -0.004, "high": 0.001}, (0.0, 0.1)),
        ({"low": None, "high": None}, (0.4, 0.4)),
    ],
)
def test_a_bar_spans_the_interval_in_units_of_the_limit(changes: dict[str, Any], bar: tuple[float, float]) -> None:
    (drawn,) = draw_rules(ENGINE_ID, [_rule(**changes)]).axes[0].containers[0].patches
    assert (drawn.get_x(), drawn.get_x() + drawn.get_width()) == pytest.approx(bar)


def test_a_bound_that_is_not_known_reaches_the_end_of_the_axis() -> None:
    figure = draw_rules(ENGINE_ID, [_rule(high=None, outcome=Outcome.INCONCLUSIVE)])
    (drawn,) = figure.axes[0].containers[0].patches
    assert drawn.get_x() + drawn.get_width() == pytest.approx(figure.axes[0].get_xlim()[1])
    assert "▶" in _texts(figure)


def test_one_bad_rule_does_not_squash_the_others() -> None:
    bad = _rule(value=0.5, low=0.45, high=0.55, outcome=Outcome.FAIL)
    figure = draw_rules(ENGINE_ID, [bad, _rule()])
    assert figure.axes[0].get_xlim()[1] == 3.0
    assert "5,000% ▶" in _texts(figure)


def test_every_rule_is_named_with_its_numbers() -> None:
    undecided = _rule(slice="level", group="3", n=120, needed=300, outcome=Outcome.INCONCLUSIVE)
    texts = _texts(draw_rules(ENGINE_ID, [undecided, _rule()]))
    for text in (
        ENGINE_ID,
        "score mae at level=3",
        "0.004 (≤ 0.01), n = 120 of about 300",
        "0.004 (≤ 0.01), n = 2,000",
    ):
        assert text in texts
    assert "all rules: 1 pass, 0 fail, 1 inconclusive" in texts


def test_of_many_rules_the_worst_are_drawn_and_the_others_counted() -> None:
    rules = [_rule(slice="level", group=str(number)) for number in range(57)]
    figure = draw_rules(ENGINE_ID, rules)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [rule.name for rule in rules[:MOST_RULES]]
    assert "the 40 worst of 57 rules, 17 left out" in _texts(figure)


def test_a_rule_without_value_and_a_limit_that_allows_nothing_can_be_drawn() -> None:
    none = _rule(value=None, low=None, high=None, n=0, outcome=Outcome.FAIL, margin=None)
    strict = _rule(limit=0.0, outcome=Outcome.FAIL, margin=None)
    figure = draw_rules(ENGINE_ID, [none, strict, _rule(limit=0.0, value=0.0, low=0.0, high=0.0)])
    assert "no value" in _texts(figure)
    assert _png(figure)


def test_the_same_rules_draw_the_same_bytes() -> None:
    assert _png(draw_rules(ENGINE_ID, [_rule()])) == _png(draw_rules(ENGINE_ID, [_rule()]))
