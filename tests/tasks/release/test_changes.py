from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.release.changes import rule_changes, speed_change
from tasks.timings import EngineRace, RaceAt
from tests.tasks.tiny import compare_scores, latency, make_outcome, timed_at, tiny_policy
from validation.policy import Rule
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from tasks.store.local import LocalStore
    from validation.verdict import Verdict


def verdict(noise: float, *rules: Rule) -> Verdict:
    policy = replace(tiny_policy(), rules=rules) if rules else tiny_policy()
    return decide(policy, compare_scores(noise), precision="fp16")


MAE, PEARSON = (
    Rule(output="score", metric="mae", max=0.02),
    Rule(output="score", metric="pearson", min=0.9),
)


def test_a_value_that_went_from_its_ideal_is_worse_whichever_way_its_limit_is() -> None:
    worse = rule_changes(verdict(0.0001, MAE, PEARSON), verdict(0.001, MAE, PEARSON))
    better = rule_changes(verdict(0.001, MAE, PEARSON), verdict(0.0001, MAE, PEARSON))
    assert {change.metric: change.direction for change in worse} == {"mae": "worse", "pearson": "worse"}
    assert {change.metric: change.direction for change in better} == {"mae": "better", "pearson": "better"}
    (mae,) = (change for change in worse if change.metric == "mae")
    assert mae.before is not None
    assert mae.after is not None
    assert mae.before < mae.after


def test_the_same_answers_change_nothing() -> None:
    changes = rule_changes(verdict(0.0001), verdict(0.0001))
    assert {change.direction for change in changes} == {"same"}
    assert len(changes) == len(tiny_policy().rules)


def test_a_rule_of_one_side_only_is_new_or_dropped_and_a_limit_is_the_new_one() -> None:
    stricter = replace(MAE, max=1e-9)
    changes = rule_changes(verdict(0.0001, MAE), verdict(0.0001, stricter, PEARSON))
    assert [(change.metric, change.direction, change.limit) for change in changes] == [
        ("mae", "same", "≤ 1e-09"),
        ("pearson", "new", "≥ 0.9"),
    ]
    assert (changes[0].outcome_before, changes[0].outcome) == (Outcome.PASS, Outcome.FAIL)
    (dropped,) = (one for one in rule_changes(verdict(0.0001, MAE, PEARSON), verdict(0.0001, MAE)) if not one.outcome)
    assert (dropped.metric, dropped.direction, dropped.after) == ("pearson", "dropped", None)


def test_without_a_race_speeds_are_those_of_two_hosts_and_have_no_bounds(store: LocalStore) -> None:
    benchmark = make_outcome(store).benchmark
    assert benchmark is not None
    found = speed_change(timed_at(benchmark, 6.0), timed_at(benchmark, 2.0), None)
    assert (found.speedup, found.low, found.high, found.in_turns) == (3.0, None, None, False)
    assert found.direction is None


def test_a_race_is_believed_before_the_benchmarks(store: LocalStore) -> None:
    benchmark = make_outcome(store).benchmark
    assert benchmark is not None
    at = RaceAt(before=latency(8, 2.0), after=latency(8, 4.0), speedup=0.5, low=0.4, high=0.6)
    race = EngineRace(batches=(at,), headline_batch=8)
    found = speed_change(timed_at(benchmark, 6.0), timed_at(benchmark, 2.0), race)
    assert (found.speedup, found.low, found.high, found.in_turns) == (0.5, 0.4, 0.6, True)
    assert found.direction == "worse"
    assert found.model_copy(update={"high": 1.1}).direction == "same"
    assert found.model_copy(update={"low": 1.01, "high": 1.1}).direction == "better"
    assert (found.before.p50_ms, found.after.p50_ms) == (2.0, 4.0)
