import pytest

from validation.metrics import METRICS, Direction
from validation.rules import PerformanceRule, Policy, PolicyError, Rule

RULE = Rule(output="score", metric="mae", max=0.01)
SPEED = PerformanceRule(metric="speedup_vs_fp16", min=1.0, precision="int8")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "max: no limit is set"),
        ({"max": 0.1, "min": 0.0}, "min: max and min are set; mae takes max alone"),
        ({"max": 0.1, "within": 0.1}, "within: max and within are set; mae takes max alone"),
        ({"min": 0.1}, "min: of mae, lower is better; use max"),
        ({"within": 0.1}, "within: of mae, lower is better; use max"),
        ({"max": float("nan")}, "max: nan is no limit"),
        ({"max": float("inf")}, "max: inf is no limit"),
        ({"max": True}, "max: True is no limit"),
        ({"max": -0.1}, "max: -0.1 is beyond 0, the best mae there is"),
    ],
)
def test_a_rule_without_one_sensible_limit_cannot_be_made(limits: dict, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Rule(output="score", metric="mae", **limits)


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_every_metric_takes_one_side_and_no_other(metric: object) -> None:
    right = {
        Direction.LOWER_IS_BETTER: "max",
        Direction.HIGHER_IS_BETTER: "min",
        Direction.NEARER_ZERO_IS_BETTER: "within",
    }[metric.direction]
    limit = 1.4 if metric.name.endswith("_ratio") else 0.4
    made = Rule(output="score", metric=metric.name, **{right: limit})
    assert (made.side, made.limit) == (right, limit)
    for wrong in {"max", "min", "within"} - {right}:
        with pytest.raises(PolicyError, match=f"{wrong}: of {metric.name}, .* use {right}"):
            Rule(output="score", metric=metric.name, **{wrong: 0.4})


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        ("pearson", {"min": -1}),
        ("cosine", {"min": -1.5}),
        ("ks", {"max": 1.0}),
        ("js", {"max": 0.7}),
        ("ks_pvalue", {"min": 0}),
        ("top1_agreement", {"min": 0.0}),
        ("qwk_drop", {"max": 2}),
        ("accuracy_drop", {"max": 1}),
        ("ece_drop", {"max": 1}),
    ],
)
def test_a_rule_that_anything_meets_cannot_be_made(metric: str, limits: dict) -> None:
    with pytest.raises(PolicyError, match="so anything would pass"):
        Rule(output="score", metric=metric, **limits)


@pytest.mark.parametrize(
    ("metric", "limits"),
    [("pearson", {"min": 1.1}), ("bias", {"within": -0.1}), ("qwk_drop", {"max": -0.1}), ("ks_pvalue", {"min": 2})],
)
def test_a_rule_that_nothing_meets_cannot_be_made(metric: str, limits: dict) -> None:
    with pytest.raises(PolicyError, match="so nothing would pass"):
        Rule(output="score", metric=metric, **limits)


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        ("top1_agreement", {"min": 1.0}),
        ("top5_agreement", {"min": 1}),
        ("ks", {"max": 0.0}),
        ("accuracy_drop", {"max": 0.0}),
    ],
)
def test_a_share_without_any_allowance_cannot_be_asked_for(metric: str, limits: dict) -> None:
    with pytest.raises(PolicyError, match=f"no number of samples shows that {metric} is [01]; leave some room"):
        Rule(output="score", metric=metric, **limits)


def test_a_p_value_of_one_cannot_be_asked_for() -> None:
    with pytest.raises(PolicyError, match="is reached by identical outputs alone; give a level of significance"):
        Rule(output="score", metric="ks_pvalue", min=1.0)


@pytest.mark.parametrize("metric", ["maes", None, 3, ["mae"], "mae_range"])
def test_a_rule_on_an_unknown_metric_cannot_be_made(metric: object) -> None:
    with pytest.raises(PolicyError, match=r"rule on score\.metric: .* is no metric; (did you mean|choose from)"):
        Rule(output="score", metric=metric, max=0.1)


def test_a_rule_knows_its_limit_and_its_side() -> None:
    assert (RULE.limit, RULE.side) == (0.01, "max")
    zero = Rule(output="score", metric="pearson", min=0.0)
    assert (zero.limit, zero.side) == (0.0, "min")
    assert Rule(output="score", metric="bias", within=0).side == "within"


def test_a_policy_without_rules_cannot_be_made() -> None:
    with pytest.raises(PolicyError, match="rules: there are none"):
        Policy(rules=())
    with pytest.raises(PolicyError, match="rules: there are none"):
        Policy(rules=(), performance=(SPEED,))


@pytest.mark.parametrize("number", [0, -1, True, 2.5, None, "300"])
@pytest.mark.parametrize("field", ["min_samples", "resamples"])
def test_a_policy_without_a_sensible_count_cannot_be_made(field: str, number: object) -> None:
    with pytest.raises(PolicyError, match=f"^{field}: .* is no such count; give a whole number"):
        Policy(rules=(RULE,), **{field: number})


def test_the_fewest_samples_and_resamples_that_a_policy_may_ask_for() -> None:
    assert Policy(rules=(RULE,), min_samples=1, resamples=200).resamples == 200
    with pytest.raises(PolicyError, match="resamples: 199 is no such count; give a whole number, 200 or more"):
        Policy(rules=(RULE,), resamples=199)


@pytest.mark.parametrize("confidence", [0.5, 0.3, 0, 1, 1.0, 95, True, None, "0.95", float("nan")])
def test_a_policy_without_a_sensible_confidence_cannot_be_made(confidence: object) -> None:
    with pytest.raises(PolicyError, match=r"confidence: .* is none; give a number between 0\.5 and 1, like 0\.95"):
        Policy(rules=(RULE,), confidence=confidence)


def test_a_confidence_that_the_resamples_cannot_give_is_refused() -> None:
    with pytest.raises(
        PolicyError, match=r"resamples: 2000 have no quantile for confidence 0\.999; give 10,000 or more"
    ):
        Policy(rules=(RULE,), confidence=0.999)
    assert Policy(rules=(RULE,), confidence=0.95, resamples=200)
    assert Policy(rules=(RULE,), confidence=0.99, resamples=1_000)
    with pytest.raises(PolicyError, match="give 1,000 or more"):
        Policy(rules=(RULE,), confidence=0.99, resamples=999)


def test_a_policy_says_what_it_takes_without_being_told() -> None:
    policy = Policy(rules=(RULE,))
    assert (policy.confidence, policy.min_samples, policy.resamples, policy.performance) == (0.95, 300, 2000, ())
    assert 1 - 0.99**policy.min_samples > policy.confidence > 1 - 0.99 ** (policy.min_samples - 2)


def test_a_policy_with_two_limits_on_one_thing_cannot_be_made() -> None:
    with pytest.raises(PolicyError, match=r"rules\[1\]: limits mae of score again, as rules\[0\] does"):
        Policy(rules=(RULE, Rule(output="score", metric="mae", max=0.5)))
    by_level = Rule(output="score", metric="mae", max=0.5, by="level")
    with pytest.raises(PolicyError, match=r"rules\[2\]: limits mae of score again, as rules\[1\] does"):
        Policy(rules=(RULE, by_level, by_level))
    assert Policy(rules=(RULE, by_level, Rule(output="traits", metric="mae", max=0.5)))


def test_a_policy_with_two_limits_on_one_speed_cannot_be_made() -> None:
    with pytest.raises(PolicyError, match=r"performance\[1\]: limits speedup_vs_fp16 again, as performance\[0\] does"):
        Policy(rules=(RULE,), performance=(SPEED, SPEED))
    assert Policy(rules=(RULE,), performance=(SPEED, PerformanceRule(metric="speedup_vs_fp16", min=1.0)))


def test_a_policy_knows_by_which_slices_each_output_is_measured() -> None:
    rules = (
        RULE,
        Rule(output="score", metric="mae", max=0.5, by="level"),
        Rule(output="score", metric="bias", within=0.5, by="prompt"),
        Rule(output="score", metric="p99_abs", max=0.5, by="level"),
        Rule(output="traits", metric="bias", within=0.5, by="level"),
        Rule(output="grade", metric="js", max=0.5),
    )
    assert Policy(rules=rules).slices == {
        "score": {"level": {"mae", "p99_abs"}, "prompt": {"bias"}},
        "traits": {"level": {"bias"}},
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metric": "speedup_vs_fp32"}, "metric: 'speedup_vs_fp32' is no metric of speed; did you mean"),
        ({"metric": "latency"}, "choose from speedup_vs_reference, speedup_vs_fp16"),
        ({"min": 0}, "min: 0 is no speed-up; give a number above 0, where 1 is as fast"),
        ({"min": -1}, "min: -1 is no speed-up"),
        ({"min": float("inf")}, "min: inf is no speed-up"),
        ({"min": True}, "min: True is no speed-up"),
        ({"precision": "int4"}, "precision: 'int4' is none; did you mean 'int8'?"),
    ],
)
def test_a_bad_rule_of_performance_cannot_be_made(keys: dict, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        PerformanceRule(**({"metric": "speedup_vs_fp16", "min": 1.0} | keys))
    assert message in str(caught.value)
