from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.rule_view import deciding_sentence, deciding_words, judged_rules, told_of_outputs, worst_first
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison
from validation.outputs import OutputKind, OutputSpec
from validation.policy import PerformanceRule, Policy, Rule
from validation.verdict import Outcome, Speedup, Verdict, decide

MAE = Rule(output="score", metric="mae", max=0.01)
BIAS = Rule(output="score", metric="bias", within=0.005)
PEARSON = Rule(output="score", metric="pearson", min=0.99)
MAX_ABS = Rule(output="score", metric="max_abs", max=0.1)
QWK_DROP = Rule(output="score", metric="qwk_drop", max=0.02)
BY_LEVEL = Rule(output="score", metric="mae", max=0.02, by="level")
FASTER = PerformanceRule(metric="speedup_vs_reference", min=1.0)
SPEC = {"score": OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0)}


def _verdict(*rules: Rule, noise: float = 0.002, n: int = 600, speed: float | None = 2.0) -> Verdict:
    policy = Policy(rules=rules, resamples=200, performance=(FASTER,))
    rng = np.random.default_rng(5)
    comparison = Comparison(SPEC, by=policy.slices, plan=Bootstrap(resamples=200))
    reference = rng.random(n)
    level = np.arange(n) % 2
    comparison.update({"score": reference}, {"score": reference + rng.normal(0, noise, n)}, slices={"level": level})
    found = Speedup(value=None, note="PyTorch was not timed") if speed is None else _speedup(speed)
    return decide(policy, comparison.result(), speedups={"speedup_vs_reference": found})


def _speedup(value: float) -> Speedup:
    return Speedup(value=value, low=0.95 * value, high=1.05 * value)


def test_the_margin_is_the_share_of_the_limit_that_the_judged_bound_leaves() -> None:
    judged = judged_rules(_verdict(MAE, BIAS, PEARSON, MAX_ABS))
    for rule in judged:
        bounds = [abs(rule.used(bound)) for bound in (rule.low, rule.high) if bound is not None]
        assert rule.value is not None
        assert rule.margin == pytest.approx(1 - max(bounds or [rule.used(rule.value)]))


def test_rules_that_fail_come_first_then_the_undecided_then_those_of_speed_after_those_of_outputs() -> None:
    strict = Rule(output="score", metric="rmse", max=0.0001)
    judged = judged_rules(_verdict(MAE, strict, BY_LEVEL, n=598, speed=2.0))
    assert [rule.outcome for rule in judged] == [Outcome.FAIL, *[Outcome.INCONCLUSIVE] * 2, *[Outcome.PASS] * 2]
    assert [rule.metric for rule in judged] == ["rmse", "mae", "mae", "mae", "speedup_vs_reference"]


@pytest.mark.parametrize(
    ("rule", "verdict", "words"),
    [
        (PEARSON, {"noise": 0.0001, "n": 3_000}, r"score pearson 0\.9999999\d? \(≥ 0\.99\)"),
        (BY_LEVEL, {"n": 400}, r"score mae at level=[01] 0\.00\d+ \(≤ 0\.02\), about 300 samples would decide"),
        (MAE, {"speed": 0.5}, r"speedup_vs_reference 0\.5 \(≥ 1\)"),
        (MAE, {"speed": None}, r"speedup_vs_reference no value \(≥ 1\), not decided"),
        (QWK_DROP, {}, r"score qwk_drop no value \(≤ 0\.02\)"),
    ],
)
def test_what_decided_is_said_in_a_few_words(rule: Rule, verdict: dict[str, Any], words: str) -> None:
    assert re.fullmatch(words, deciding_words(_verdict(rule, **verdict)))


def test_a_defect_decides_before_any_rule() -> None:
    verdict = _verdict(MAE)
    assert deciding_sentence(verdict).startswith("score mae is 0.00")
    one, three = (replace(verdict, defects=("3 values are NaN",) * count) for count in (1, 3))
    assert deciding_sentence(one) == deciding_words(one) == "3 values are NaN"
    assert deciding_sentence(three) == "3 values are NaN (and 2 more defects)"


def test_sentences_are_sorted_by_outcome_and_else_stay_in_order() -> None:
    said = [(Outcome.PASS, "a"), (Outcome.FAIL, "b"), (Outcome.INCONCLUSIVE, "c"), (Outcome.FAIL, "d")]
    assert "".join(sentence for _, sentence in worst_first(said)) == "bdca"


def test_a_score_that_is_one_population_is_told() -> None:
    comparison = Comparison(SPEC, plan=Bootstrap(resamples=200))
    mask = np.random.default_rng(0).random((9, 64, 64))
    comparison.update({"score": mask}, {"score": mask})
    assert told_of_outputs(comparison.result()) == ("score: its 4,096 columns are judged as one population",)
