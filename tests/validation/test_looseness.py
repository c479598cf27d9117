"""What one policy asks less for than another."""

from dataclasses import replace

import pytest

from validation.looseness import find_looser
from validation.policy import PerformanceRule, Policy, Rule

MAE, PEARSON, BIAS = (
    Rule(output="score", metric="mae", max=0.02),
    Rule(output="score", metric="pearson", min=0.99),
    Rule(output="score", metric="bias", within=0.01),
)
BY_LEVEL = Rule(output="score", metric="mae", max=0.04, by="level")
SPEED = PerformanceRule(metric="speedup_vs_fp16", min=1.0, precision="int8")
STRICT = Policy(rules=(MAE, PEARSON, BIAS, BY_LEVEL), performance=(SPEED,))


def changed(rule: Rule, **limits: float) -> Policy:
    return replace(STRICT, rules=tuple(replace(one, **limits) if one == rule else one for one in STRICT.rules))


@pytest.mark.parametrize(
    ("loose", "words"),
    [
        (changed(MAE, max=1e9), "score mae max 1e+09, 0.02 there"),
        (changed(PEARSON, min=0.5), "score pearson min 0.5, 0.99 there"),
        (changed(BIAS, within=0.5), "score bias within 0.5, 0.01 there"),
        (changed(BY_LEVEL, max=0.5), "score mae by level max 0.5, 0.04 there"),
        (replace(STRICT, rules=(PEARSON, BIAS, BY_LEVEL)), "no rule on score mae, max 0.02 there"),
        (replace(STRICT, rules=(MAE, PEARSON, BIAS)), "no rule on score mae by level, max 0.04 there"),
        (replace(STRICT, confidence=0.51), "confidence 0.51, 0.95 there"),
        (replace(STRICT, min_samples=1), "min_samples 1, 300 there"),
        (replace(STRICT, performance=()), "no rule on speedup_vs_fp16 of int8, min 1 there"),
        (replace(STRICT, performance=(replace(SPEED, min=0.5),)), "min 0.5 on speedup_vs_fp16 of int8, min 1 there"),
    ],
)
def test_whatever_is_asked_less_for_is_named_with_both_numbers(loose: Policy, words: str) -> None:
    assert find_looser(loose, STRICT) == (words,)
    assert find_looser(STRICT, loose) == ()
    assert find_looser(loose, loose) == ()


def test_all_of_it_is_named() -> None:
    wide = Policy(rules=(replace(MAE, max=1e9),), confidence=0.51, min_samples=1)
    assert len(find_looser(wide, STRICT)) == 7
