"""Policies are read strictly; every message names file, field, reason and remedy."""

import pytest
from pydantic import TypeAdapter

from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy, PolicyError, Rule, default_policy, outputs_from_mapping, policy_from_mapping

SCORE = OutputSpec(kind=OutputKind.SCORE, low=0, high=1)
OUTPUTS = {"score": SCORE, "label": OutputSpec(kind=OutputKind.LOGITS)}
SCORE_METRICS = "mae, mae_range, max_abs, rmse, relative_l2, pearson, ks, ks_pvalue, kl"
MAE = {"output": "score", "metric": "mae", "max": 0.01}


def test_a_policy_is_read_from_its_mapping() -> None:
    mapping = {"min_samples": 50, "rules": [MAE, {"output": "label", "metric": "pearson", "min": 0.99}]}
    assert policy_from_mapping(mapping, OUTPUTS) == Policy(
        rules=(Rule(output="score", metric="mae", max=0.01), Rule(output="label", metric="pearson", min=0.99)),
        min_samples=50,
    )


def test_a_policy_asks_for_two_hundred_samples_unless_it_says_otherwise() -> None:
    assert policy_from_mapping({"rules": [MAE]}, OUTPUTS).min_samples == 200


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (None, "policy.yaml: None is no mapping; give the keys min_samples, outputs, rules"),
        ([], "policy.yaml: [] is no mapping; give the keys min_samples, outputs, rules"),
        ({"rule": [MAE]}, "policy.yaml: 'rule' is no key here; did you mean 'rules'?"),
        ({True: [MAE]}, "policy.yaml: True is no key here; choose from min_samples, outputs, rules"),
        ({}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        ({"rules": []}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        ({"rules": MAE}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        (
            {"rules": [MAE], "min_samples": True},
            "policy.yaml: min_samples: True is no count of samples; give a whole number, 1 or more",
        ),
        (
            {"rules": [MAE], "min_samples": None},
            "policy.yaml: min_samples: None is no count of samples; give a whole number, 1 or more",
        ),
        ({"rules": [MAE, MAE]}, "policy.yaml: rules[1]: limits mae of score again, as rules[0] does; remove one"),
        (
            {"rules": [MAE], "outputs": {"score": {"kind": "score", "range": [0, 6]}}},
            "policy.yaml: outputs.score: differs from the model's output; correct it or leave it out",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_field_reason_and_remedy(mapping: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from_mapping(mapping, OUTPUTS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("mae", ": 'mae' is no mapping; give the keys output, metric, max, min"),
        (MAE | {"maxx": 1}, ": 'maxx' is no key here; did you mean 'max'?"),
        (MAE | {"by": "level"}, ": 'by' is no key here; choose from output, metric, max, min"),
        (MAE | {"output": "scor"}, ".output: 'scor' is no output; did you mean 'score'?"),
        (MAE | {"output": ["score"]}, ".output: ['score'] is no output; choose from score, label"),
        ({"metric": "mae", "max": 1}, ".output: None is no output; choose from score, label"),
        (MAE | {"metric": "peason"}, ".metric: 'peason' is no metric; did you mean 'pearson'?"),
        (
            {"output": "score", "max": 1},
            f".metric: None is no metric; choose from {SCORE_METRICS}, top1_agreement",
        ),
        (
            {"output": "score", "metric": "top1_agreement", "min": 0.9},
            f".metric: top1_agreement is not defined for score, whose kind is score; use {SCORE_METRICS}",
        ),
        ({"output": "score", "metric": "mae"}, ".max: no limit is set; mae needs max"),
        (MAE | {"max": None}, ": a limit is empty; give a number or leave its key out"),
        (MAE | {"min": 0.0}, ".min: both max and min are set; mae takes max alone, remove min"),
        (
            {"output": "score", "metric": "pearson", "max": 0.99},
            ".max: of pearson, higher is better; use min",
        ),
        (MAE | {"max": float("nan")}, ".max: nan is no limit; give a finite number"),
        (MAE | {"max": float("inf")}, ".max: inf is no limit; give a finite number"),
        (MAE | {"max": True}, ".max: True is no limit; give a finite number"),
        (MAE | {"max": "0.01"}, ".max: '0.01' is no limit; give a finite number"),
        (MAE | {"max": 10**400}, f".max: {10**400} is no limit; give a finite number"),
        (MAE | {"max": -1}, ".max: -1 is beyond 0, the best mae there is, so nothing would pass"),
        (
            {"output": "score", "metric": "ks", "max": 1},
            ".max: 1 is met by every ks, so anything would pass; tighten it",
        ),
    ],
)
def test_a_bad_rule_is_refused_with_its_position_reason_and_remedy(rule: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from_mapping({"rules": [MAE | {"metric": "rmse"}, rule]}, OUTPUTS)
    assert str(caught.value) == f"policy.yaml: rules[1]{message}"


def test_a_message_names_the_file_that_it_is_about() -> None:
    with pytest.raises(PolicyError, match=r"^strict\.yaml: rules"):
        policy_from_mapping({}, OUTPUTS, origin="strict.yaml")


def test_outputs_are_read_from_a_policy() -> None:
    mapping = {"outputs": {"score": {"kind": "score", "range": [0, 1]}, "label": {"kind": "logits"}}}
    assert outputs_from_mapping(mapping) == OUTPUTS
    assert policy_from_mapping(mapping | {"rules": [MAE]}, OUTPUTS).rules[0].max == 0.01


def test_a_policy_need_not_declare_outputs() -> None:
    assert outputs_from_mapping({"rules": [MAE]}) == {}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "outputs: [] is no mapping"),
        ({"score": None}, "outputs.score: None is no mapping; give the keys kind, range"),
        ({"score": {"kinds": "score"}}, "outputs.score: 'kinds' is no key here; did you mean 'kind'?"),
        ({"score": {"kind": "scores"}}, "outputs.score.kind: 'scores' is no kind of output; did you mean 'score'?"),
        ({"score": {}}, "outputs.score.kind: None is no kind of output; choose from score, logits"),
        ({"score": {"kind": "score", "range": [1]}}, "outputs.score.range: [1] is no interval; give two numbers"),
        ({"score": {"kind": "score", "range": [0, True]}}, "outputs.score.range: [0, True] is no interval"),
        ({"score": {"kind": "score", "range": 5}}, "outputs.score.range: 5 is no interval"),
        ({"score": {"kind": "score", "range": [1, 0]}}, "outputs.score.range: [1.0, 0.0] is no interval"),
    ],
)
def test_bad_outputs_are_refused_with_field_and_remedy(outputs: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        outputs_from_mapping({"outputs": outputs})
    assert str(caught.value).startswith(f"policy.yaml: {message}")


def limits(policy: Policy) -> dict[str, float]:
    return {rule.metric: rule.limit for rule in policy.rules}


@pytest.mark.parametrize(("precision", "mae"), [("fp32", 0.001), ("fp16", 0.01), ("int8", 0.02)])
def test_the_default_limits_a_score_by_its_range(precision: str, mae: float) -> None:
    expected = {"mae_range": mae, "pearson": 0.99, "ks": 0.05, "kl": 0.01}
    assert limits(default_policy({"score": SCORE}, precision)) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (OutputSpec(kind=OutputKind.SCORE), ("relative_l2", 0.10)),
        (OutputSpec(kind=OutputKind.PROBABILITIES), ("mae", 0.02)),
        (OutputSpec(kind=OutputKind.LOGITS), ("top1_agreement", 0.99)),
        (OutputSpec(kind=OutputKind.EMBEDDING), ("relative_l2", 0.10)),
        (OutputSpec(kind=OutputKind.TENSOR), ("relative_l2", 0.10)),
    ],
)
def test_the_default_of_every_other_kind_limits_its_own_error(spec: OutputSpec, expected: tuple[str, float]) -> None:
    assert next(iter(limits(default_policy({"out": spec}, "int8")).items())) == expected


def test_the_default_has_rules_for_every_output_and_only_metrics_that_it_has() -> None:
    policy = default_policy(OUTPUTS, "fp16")
    rules = [{"output": r.output, "metric": r.metric, "max": r.max, "min": r.min} for r in policy.rules]
    mapping = {"rules": [{key: value for key, value in rule.items() if value is not None} for rule in rules]}
    assert policy_from_mapping(mapping, OUTPUTS) == policy
    assert {rule.output for rule in policy.rules} == set(OUTPUTS)


def test_the_default_of_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'fp16'"):
        default_policy(OUTPUTS, "fp-16")


def test_the_default_of_no_outputs_is_refused() -> None:
    with pytest.raises(PolicyError):
        default_policy({}, "fp16")


def test_a_policy_survives_json() -> None:
    adapter, policy = TypeAdapter(Policy), default_policy(OUTPUTS, "int8")
    assert adapter.validate_json(adapter.dump_json(policy)) == policy
