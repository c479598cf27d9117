"""An organisation's floor: a policy may be stricter, and is made so where it is not."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.floor import floor_from_mapping, tighten
from validation.looseness import find_looser
from validation.outputs import OutputKind, OutputSpec
from validation.policy import PerformanceRule, Policy, PolicyError, Rule, default_policy

SCORE = OutputSpec(kind=OutputKind.SCORE, low=1, high=6)
OUTPUTS = {"score": SCORE, "classes": OutputSpec(kind=OutputKind.LOGITS)}
FLOOR: dict[str, Any] = {
    "confidence": 0.9,
    "min_samples": 200,
    "rules": [
        {"metric": "mae", "max": 0.02, "of_range": True, "kind": "score"},
        {"metric": "pearson", "min": 0.98},
        {"metric": "bias", "within": 0.05},
        {"metric": "top1_agreement", "min": 0.95},
    ],
    "performance": [{"metric": "speedup_vs_fp16", "min": 1.0, "precision": "int8"}],
}
LOOSE = Policy(
    rules=(
        Rule(output="score", metric="mae", max=4.0),
        Rule(output="score", metric="mae", max=4.5, by="level"),
        Rule(output="score", metric="pearson", min=0.1),
    ),
    confidence=0.51,
    min_samples=1,
    performance=(PerformanceRule(metric="speedup_vs_fp16", min=0.1, precision="int8"),),
)


def test_a_loose_policy_gets_the_floor_s_numbers_and_each_is_told() -> None:
    held = tighten(LOOSE, floor_from_mapping(FLOOR), OUTPUTS)
    assert held.policy == Policy(
        rules=(
            Rule(output="score", metric="mae", max=0.1),
            Rule(output="score", metric="mae", max=4.5, by="level"),
            Rule(output="score", metric="pearson", min=0.98),
            Rule(output="score", metric="bias", within=0.05),
            Rule(output="classes", metric="top1_agreement", min=0.95),
        ),
        confidence=0.9,
        min_samples=200,
        performance=(PerformanceRule(metric="speedup_vs_fp16", min=1.0, precision="int8"),),
    )
    assert held.changes == (
        "score mae max 4 → 0.1",
        "score pearson min 0.1 → 0.98",
        "score bias within 0.05, which it lacks",
        "classes top1_agreement min 0.95, which it lacks",
        "confidence 0.51 → 0.9",
        "min_samples 1 → 200",
        "speedup_vs_fp16 of int8 min 0.1 → 1",
    )


def test_a_policy_that_is_stricter_already_stays_as_it_is() -> None:
    floor = floor_from_mapping({key: value for key, value in FLOOR.items() if key != "performance"})
    default = default_policy(OUTPUTS, "fp16")
    pearson = Rule(output="score", metric="pearson", min=0.99)
    stricter = {"bias": {"within": 0.01}}
    rules = (replace(rule, **stricter.get(rule.metric, {})) for rule in default.rules)
    policy = replace(default, rules=(*rules, pearson))
    held = tighten(policy, floor, OUTPUTS)
    assert (held.policy, held.changes) == (policy, ())


LIMITS = st.floats(0.01, 0.9)


@given(LIMITS, LIMITS, st.floats(0.51, 0.99), st.floats(0.51, 0.99), st.integers(1, 999), st.integers(1, 999))
def test_what_holds_is_never_looser_than_the_policy_or_than_the_floor(
    own: float, other: float, sure: float, surer: float, few: int, more: int
) -> None:
    floor = floor_from_mapping(
        {
            "confidence": surer,
            "min_samples": more,
            "rules": [{"metric": "mae", "max": other}, {"metric": "cosine", "min": other}],
        }
    )
    policy = Policy(
        rules=(Rule(output="score", metric="mae", max=own), Rule(output="score", metric="cosine", min=own)),
        confidence=sure,
        min_samples=few,
    )
    held = tighten(policy, floor, OUTPUTS).policy
    assert find_looser(held, policy) == ()
    asked = replace(
        policy,
        confidence=surer,
        min_samples=more,
        rules=tuple(
            Rule(output=name, **limit)
            for name in OUTPUTS
            for limit in ({"metric": "mae", "max": other}, {"metric": "cosine", "min": other})
        ),
    )
    assert find_looser(held, asked) == ()
    assert tighten(held, floor, OUTPUTS).changes == ()


def test_a_confidence_that_needs_more_resamples_gets_them() -> None:
    held = tighten(LOOSE, floor_from_mapping({"confidence": 0.999}), OUTPUTS)
    assert (held.policy.confidence, held.policy.resamples) == (0.999, 10_000)


def test_a_share_of_a_range_needs_one() -> None:
    floor = floor_from_mapping(FLOOR)
    with pytest.raises(PolicyError, match="output score declares none; give it its range"):
        tighten(LOOSE, floor, {"score": OutputSpec(kind=OutputKind.SCORE)})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "floor.yaml: [] is no mapping"),
        ({}, "floor.yaml: asks for nothing, so it is no floor"),
        ({"rules": []}, "floor.yaml: asks for nothing"),
        ({"outputs": {}}, "floor.yaml: 'outputs' is no key here"),
        ({"rules": 1}, "floor.yaml: rules: 1 is no list"),
        ({"rules": [{"metric": "mse", "max": 1}]}, "rules[0].metric: 'mse' is no metric; did you mean 'rmse'?"),
        ({"rules": [{"metric": "mae", "min": 1}]}, "floor.yaml: rules[0].min: of mae, lower is better; use max"),
        ({"rules": [{"metric": "pearson", "min": -1}]}, "is met by every pearson, so anything would pass"),
        ({"rules": [{"metric": "mae", "max": 1, "output": "score"}]}, "rules[0]: 'output' is no key here"),
        ({"rules": [{"metric": "mae", "max": 1, "kind": "scores"}]}, "rules[0].kind: 'scores' is no kind of output"),
        ({"rules": [{"metric": "pearson", "min": 0.9, "kind": "logits"}]}, "outputs of kind logits have no pearson"),
        ({"rules": [{"metric": "pearson", "min": 0.9, "of_range": True}]}, "rules[0].of_range: is for bias, mae"),
        ({"rules": [{"metric": "qwk_drop", "max": 0.1}]}, "needs labels, which not every model has"),
        ({"confidence": 0.5}, "floor.yaml: confidence: 0.5 is none"),
        ({"confidence": "0.9"}, "floor.yaml: confidence: '0.9' is none"),
        ({"confidence": 0.99999}, "floor.yaml: confidence: 0.99999 needs 1,000,001 resamples"),
        ({"min_samples": 0.5}, "floor.yaml: min_samples: 0.5 is no such count"),
        ({"performance": [{"metric": "speed", "min": 1}]}, "floor.yaml: performance[0].metric: 'speed' is no metric"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_field(document: Any, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        floor_from_mapping(document)
    assert words in str(caught.value)


def test_a_floor_can_be_written_as_json() -> None:
    assert asdict(floor_from_mapping(FLOOR))["rules"][0]["kind"] == "score"
