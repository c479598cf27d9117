import pytest

from validation.rules import Policy, PolicyError, Rule

RULE = Rule(output="score", metric="mae", max=0.01)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "max: no limit is set"),
        ({"max": 0.1, "min": 0.0}, "min: both max and min are set"),
        ({"min": 0.1}, "min: of mae, lower is better; use max"),
        ({"max": float("nan")}, "max: nan is no limit"),
        ({"max": float("inf")}, "max: inf is no limit"),
        ({"max": True}, "max: True is no limit"),
        ({"max": -0.1}, "max: -0.1 is beyond 0, the best mae there is"),
    ],
)
def test_a_rule_without_one_sensible_limit_cannot_be_made(limits: dict, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Rule(output="score", metric="mae", **limits)


@pytest.mark.parametrize(
    ("metric", "limits"),
    [("pearson", {"min": -1}), ("ks", {"max": 1.0}), ("ks_pvalue", {"min": 0}), ("top1_agreement", {"min": 0.0})],
)
def test_a_rule_that_anything_meets_cannot_be_made(metric: str, limits: dict) -> None:
    with pytest.raises(PolicyError, match="so anything would pass"):
        Rule(output="score", metric=metric, **limits)


def test_a_rule_knows_its_limit() -> None:
    assert RULE.limit == 0.01
    assert Rule(output="score", metric="pearson", min=0.0).limit == 0.0


def test_a_policy_without_rules_cannot_be_made() -> None:
    with pytest.raises(PolicyError, match="rules: there are none"):
        Policy(rules=())


@pytest.mark.parametrize("min_samples", [0, -1, True, 2.5, None])
def test_a_policy_without_a_sensible_number_of_samples_cannot_be_made(min_samples: object) -> None:
    with pytest.raises(PolicyError, match="min_samples: "):
        Policy(rules=(RULE,), min_samples=min_samples)


def test_a_policy_with_two_limits_on_one_thing_cannot_be_made() -> None:
    with pytest.raises(PolicyError, match=r"rules\[1\]: limits mae of score again, as rules\[0\] does"):
        Policy(rules=(RULE, Rule(output="score", metric="mae", max=0.5)))
