"""Policies are read strictly; every message names file, field, reason and remedy."""

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from validation.bootstrap import Bootstrap
from validation.comparison import Comparison
from validation.metrics import METRICS, Direction
from validation.outputs import OutputKind, OutputSpec
from validation.policy import (
    PerformanceRule,
    Policy,
    PolicyError,
    Rule,
    default_policy,
    outputs_from_mapping,
    policy_from_mapping,
)
from validation.range_limits import worst_in_range
from validation.rules import shown

SCORE = OutputSpec(kind=OutputKind.SCORE, low=0, high=1)
OUTPUTS = {"score": SCORE, "label": OutputSpec(kind=OutputKind.LOGITS)}
KEYS = "confidence, min_samples, resamples, outputs, rules, performance"
SCORE_METRICS = (
    "mae, rmse, max_abs, p99_abs, relative_l2, p99_sd, median_sd, cosine, bias, pearson, spearman, ks, ks_pvalue,"
    " wasserstein, smd, kl, mae_drop, qwk_drop"
)
MAE = {"output": "score", "metric": "mae", "max": 0.01}
SPEED = {"metric": "speedup_vs_fp16", "min": 1.0}

EXAMPLE = """
confidence: 0.95        # one-sided
min_samples: 200
resamples: 2000         # paired bootstrap; seeded, so the same data give the same verdict
outputs: {score: {kind: score, range: [0, 1]}, traits: {kind: score, range: [0, 1]}}
rules:
  - {output: score, metric: mae, max: 0.01}
  - {output: score, metric: bias, within: 0.005}          # two one-sided tests: the interval inside ±0.005
  - {output: score, metric: pearson, min: 0.99}
  - {output: score, metric: ks, max: 0.05}
  - {output: score, metric: ks_pvalue, min: 0.05}
  - {output: score, metric: mae, max: 0.02, by: level}    # each value of slice.level on its own
  - {output: score, metric: qwk_drop, max: 0.02}          # needs label
performance:
  - {metric: speedup_vs_reference, min: 1.0}
  - {metric: speedup_vs_fp16, min: 1.0, precision: int8}  # INT8 must earn its place
"""


def test_the_example_of_the_issue_is_read_to_the_letter() -> None:
    document = yaml.safe_load(EXAMPLE)
    outputs = outputs_from_mapping(document)
    assert outputs == {"score": SCORE, "traits": SCORE}
    policy = policy_from_mapping(document, outputs)
    assert policy == Policy(
        confidence=0.95,
        min_samples=200,
        resamples=2000,
        rules=(
            Rule(output="score", metric="mae", max=0.01),
            Rule(output="score", metric="bias", within=0.005),
            Rule(output="score", metric="pearson", min=0.99),
            Rule(output="score", metric="ks", max=0.05),
            Rule(output="score", metric="ks_pvalue", min=0.05),
            Rule(output="score", metric="mae", max=0.02, by="level"),
            Rule(output="score", metric="qwk_drop", max=0.02),
        ),
        performance=(
            PerformanceRule(metric="speedup_vs_reference", min=1.0),
            PerformanceRule(metric="speedup_vs_fp16", min=1.0, precision="int8"),
        ),
    )
    assert policy.slices == {"score": {"level": {"mae"}}}


def test_what_a_policy_leaves_out_has_a_default() -> None:
    policy = policy_from_mapping({"rules": [MAE]}, OUTPUTS)
    assert (policy.confidence, policy.min_samples, policy.resamples, policy.performance) == (0.95, 300, 2000, ())


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (None, f"policy.yaml: None is no mapping; give the keys {KEYS}"),
        ([], f"policy.yaml: [] is no mapping; give the keys {KEYS}"),
        ({"rule": [MAE]}, "policy.yaml: 'rule' is no key here; did you mean 'rules'?"),
        ({"rules": [MAE], "confidance": 0.9}, "policy.yaml: 'confidance' is no key here; did you mean 'confidence'?"),
        ({True: [MAE]}, f"policy.yaml: True is no key here; choose from {KEYS}"),
        ({}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        ({"rules": []}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        ({"rules": None}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        ({"rules": MAE}, "policy.yaml: rules: there are none, so anything would pass; list at least one rule"),
        (
            {"rules": [MAE], "min_samples": True},
            "policy.yaml: min_samples: True is no such count; give a whole number, 1 or more",
        ),
        (
            {"rules": [MAE], "min_samples": None},
            "policy.yaml: min_samples: None is no such count; give a whole number, 1 or more",
        ),
        (
            {"rules": [MAE], "resamples": 100},
            "policy.yaml: resamples: 100 is no such count; give a whole number, 200 or more",
        ),
        (
            {"rules": [MAE], "resamples": 10**12},
            "policy.yaml: resamples: 1000000000000 is more than can be drawn; give 100,000 or fewer, 2,000 as a rule",
        ),
        (
            {"rules": [MAE], "resamples": 100_000, "confidence": 0.99995},
            "policy.yaml: confidence: 0.99995 needs 200,000 resamples, and 100,000 is the most; lower it, to 0.95",
        ),
        (
            {"rules": [MAE], "confidence": 95},
            "policy.yaml: confidence: 95 is none; give a number between 0.5 and 1, like 0.95",
        ),
        ({"rules": [MAE, MAE]}, "policy.yaml: rules[1]: limits mae of score again, as rules[0] does; remove one"),
        (
            {"rules": [MAE], "outputs": {"score": {"kind": "score", "range": [0, 6]}}},
            "policy.yaml: outputs.score: differs from the model's output; correct it or leave it out",
        ),
        ({"rules": [MAE], "performance": SPEED}, f"policy.yaml: performance: {SPEED!r} is no list of rules"),
        ({"rules": [MAE], "performance": None}, "policy.yaml: performance: None is no list of rules"),
        (
            {"rules": [MAE], "performance": [SPEED, SPEED]},
            "policy.yaml: performance[1]: limits speedup_vs_fp16 again, as performance[0] does; remove one",
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
        ("mae", ": 'mae' is no mapping; give the keys output, metric, max, min, within, by"),
        (MAE | {"maxx": 1}, ": 'maxx' is no key here; did you mean 'max'?"),
        (MAE | {"output": "scor"}, ".output: 'scor' is no output; did you mean 'score'?"),
        (MAE | {"output": ["score"]}, ".output: ['score'] is no output; choose from score, label"),
        ({"metric": "mae", "max": 1}, ".output: None is no output; choose from score, label"),
        (MAE | {"metric": "peason"}, ".metric: 'peason' is no metric; did you mean 'pearson'?"),
        ({"output": "score", "max": 1}, f".metric: None is no metric; choose from {', '.join(METRICS)}"),
        (
            {"output": "score", "metric": "top1_agreement", "min": 0.9},
            f".metric: top1_agreement is not defined for score, whose kind is score; use {SCORE_METRICS}",
        ),
        ({"output": "score", "metric": "mae"}, ".max: no limit is set; mae needs max"),
        ({"output": "score", "metric": "bias"}, ".within: no limit is set; bias needs within"),
        (MAE | {"max": None}, ": a limit is empty; give a number or leave its key out"),
        (MAE | {"min": 0.0}, ".min: max and min are set; mae takes max alone"),
        ({"output": "score", "metric": "pearson", "max": 0.99}, ".max: of pearson, higher is better; use min"),
        ({"output": "score", "metric": "bias", "max": 0.1}, ".max: of bias, nearer zero is better; use within"),
        (MAE | {"max": float("nan")}, ".max: nan is no limit; give a finite number"),
        (MAE | {"max": float("inf")}, ".max: inf is no limit; give a finite number"),
        (MAE | {"max": True}, ".max: True is no limit; give a finite number"),
        (MAE | {"max": "0.01"}, ".max: '0.01' is no limit; give a finite number"),
        (MAE | {"max": 10**400}, f".max: {shown(10**400)} is no limit; give a finite number"),
        (MAE | {"max": -1}, ".max: -1 is beyond 0, the best mae there is, so nothing would pass"),
        (
            {"output": "score", "metric": "ks", "max": 1},
            ".max: 1 is met by every ks, so anything would pass; tighten it",
        ),
        (
            {"output": "score", "metric": "ks_pvalue", "min": 1},
            ".min: 1 is reached by identical outputs alone; give a level of significance, like 0.05",
        ),
        (MAE | {"by": ""}, ".by: '' is no slice; name one, as `level` for slice.level"),
        (MAE | {"by": None}, ".by: None is no slice; name one, as `level` for slice.level"),
        (MAE | {"by": ["level"]}, ".by: ['level'] is no slice; name one, as `level` for slice.level"),
    ],
)
def test_a_bad_rule_is_refused_with_its_position_reason_and_remedy(rule: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from_mapping({"rules": [MAE | {"metric": "rmse"}, rule]}, OUTPUTS)
    assert str(caught.value) == f"policy.yaml: rules[1]{message}"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, ": None is no mapping; give the keys metric, min, precision"),
        (SPEED | {"max": 2}, ": 'max' is no key here; choose from metric, min, precision"),
        (SPEED | {"by": "level"}, ": 'by' is no key here; choose from metric, min, precision"),
        ({"min": 1.0}, ".metric: 'None' is no metric of speed; choose from speedup_vs_reference, speedup_vs_fp16"),
        (SPEED | {"metric": "mae"}, ".metric: 'mae' is no metric of speed; choose from"),
        ({"metric": "speedup_vs_fp16"}, ".min: None is no speed-up; give a number above 0, where 1 is as fast"),
        (SPEED | {"min": 0}, ".min: 0.0 is no speed-up; give a number above 0, where 1 is as fast"),
        (SPEED | {"min": "fast"}, ".min: 'fast' is no speed-up; give a number above 0, where 1 is as fast"),
        (SPEED | {"precision": "int9"}, ".precision: 'int9' is none; did you mean 'int8'?"),
    ],
)
def test_a_bad_rule_of_performance_is_refused_with_its_position(entry: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from_mapping({"rules": [MAE], "performance": [entry]}, OUTPUTS)
    assert str(caught.value).startswith(f"policy.yaml: performance[0]{message}")


def test_a_message_names_the_file_that_it_is_about() -> None:
    with pytest.raises(PolicyError, match=r"^strict\.yaml: rules"):
        policy_from_mapping({}, OUTPUTS, origin="strict.yaml")


def test_outputs_are_read_from_a_policy() -> None:
    mapping = {
        "outputs": {
            "score": {"kind": "score", "range": [0, 1]},
            "label": {"kind": "logits"},
            "tokens": {"kind": "embedding", "mask": "attention_mask"},
        }
    }
    tokens = OutputSpec(kind=OutputKind.EMBEDDING, mask="attention_mask")
    assert outputs_from_mapping(mapping) == OUTPUTS | {"tokens": tokens}
    assert policy_from_mapping(mapping | {"rules": [MAE]}, OUTPUTS | {"tokens": tokens}).rules[0].max == 0.01
    with pytest.raises(PolicyError, match=r"outputs\.tokens: differs from the model's output"):
        policy_from_mapping(mapping | {"rules": [MAE]}, OUTPUTS | {"tokens": OutputSpec(kind=OutputKind.EMBEDDING)})


def test_a_policy_need_not_declare_outputs() -> None:
    assert outputs_from_mapping({"rules": [MAE]}) == {}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "outputs: [] is no mapping"),
        ({"score": None}, "outputs.score: None is no mapping; give the keys kind, range, mask"),
        ({"score": {"kinds": "score"}}, "outputs.score: 'kinds' is no key here; did you mean 'kind'?"),
        ({"score": {"kind": "scores"}}, "outputs.score.kind: 'scores' is no kind of output; did you mean 'score'?"),
        ({"score": {}}, "outputs.score.kind: None is no kind of output; choose from score, logits"),
        ({"score": {"kind": "score", "range": [1]}}, "outputs.score.range: [1] is no interval; give two numbers"),
        ({"score": {"kind": "score", "range": [0, True]}}, "outputs.score.range: [0, True] is no interval"),
        ({"score": {"kind": "score", "range": 5}}, "outputs.score.range: 5 is no interval"),
        ({"score": {"kind": "score", "range": [1, 0]}}, "outputs.score.range: [1.0, 0.0] is no interval"),
        ({"score": {"kind": "score", "mask": "m"}}, "outputs.score.mask: a score has no positions for m to leave out"),
    ],
)
def test_bad_outputs_are_refused_with_field_and_remedy(outputs: object, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        outputs_from_mapping({"outputs": outputs})
    assert str(caught.value).startswith(f"policy.yaml: {message}")


@pytest.mark.parametrize("mask", ["", None, True, 3])
def test_a_mask_that_is_no_name_is_refused(mask: object) -> None:
    with pytest.raises(PolicyError) as caught:
        outputs_from_mapping({"outputs": {"map": {"kind": "tensor", "mask": mask}}})
    assert str(caught.value) == (
        f"policy.yaml: outputs.map.mask: {mask!r} is no array's name; name one that is zero at padding"
    )


def limits(policy: Policy) -> dict[tuple[str, str | None], float]:
    return {(rule.metric, rule.by): rule.limit for rule in policy.rules}


@pytest.mark.parametrize(
    ("precision", "mae", "p99", "p99_sd", "of_slice"),
    [("fp32", 0.0125, 0.005, 0.02, 0.02), ("fp16", 0.0125, 0.05, 0.1, 0.02), ("int8", 0.02, 0.1, 0.5, 0.04)],
)
@pytest.mark.parametrize("span", [1, 5])
def test_the_default_limits_a_score_by_its_range(
    precision: str, mae: float, p99: float, p99_sd: float, of_slice: float, span: float
) -> None:
    spec = OutputSpec(kind=OutputKind.SCORE, low=1, high=1 + span)
    assert limits(default_policy({"score": spec}, precision, slices=["level"])) == pytest.approx(
        {
            ("mae", None): mae * span,
            ("p99_abs", None): p99 * span,
            ("bias", None): 0.0125 * span,
            ("p99_sd", None): p99_sd,
            ("ks", None): 0.05,
            ("median_sd", None): 0.05,
            ("mae", "level"): of_slice * span,
            ("bias", "level"): 0.02 * span,
        }
    )


SPECS = {kind: OutputSpec(kind=kind) for kind in OutputKind}


def test_the_default_of_every_other_kind_limits_what_that_kind_is_for() -> None:
    def of(kind: OutputKind) -> dict[tuple[str, str | None], float]:
        return pytest.approx(limits(default_policy({"out": SPECS[kind]}, "int8", slices=["level"])))

    classes = {
        ("top1_agreement", None): 0.975,
        ("js", None): 0.02,
        ("ks", None): 0.05,
        ("top1_agreement", "level"): 0.95,
    }
    assert classes == of(OutputKind.LOGITS)
    assert classes == of(OutputKind.PROBABILITIES)
    embedding = {("cosine", None): 0.975, ("cosine_p1", None): 0.95, ("retrieval_overlap@10", None): 0.9}
    assert embedding == of(OutputKind.EMBEDDING)
    assert of(OutputKind.TENSOR) == {("relative_l2", None): 0.5, ("relative_l2_p99", None): 0.25}
    score = {("p99_sd", None): 0.5, ("ks", None): 0.05, ("median_sd", None): 0.05}
    assert score == of(OutputKind.SCORE)


@pytest.mark.parametrize("kind", OutputKind)
def test_the_default_is_the_stricter_the_more_precise_the_engine(kind: OutputKind) -> None:
    found = [limits(default_policy({"out": SPECS[kind]}, p, slices=["level"])) for p in ("fp32", "fp16", "int8")]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for metric, by in found[0]:
        allowed = [abs(each[metric, by] - METRICS[metric].ideal) for each in found]
        assert allowed == sorted(allowed)


def test_the_default_has_rules_for_every_output_and_only_metrics_that_it_has() -> None:
    outputs = OUTPUTS | {"any " + kind.value: SPECS[kind] for kind in OutputKind}
    for precision in ("fp32", "fp16", "int8"):
        policy = default_policy(outputs, precision, slices=["level", "prompt"])
        keys = ("output", "metric", "max", "min", "within", "by")
        rules = [{key: getattr(rule, key) for key in keys if getattr(rule, key) is not None} for rule in policy.rules]
        assert policy_from_mapping({"rules": rules}, outputs) == policy
        assert {rule.output for rule in policy.rules} == set(outputs)
        assert policy.slices["score"].keys() == {"level", "prompt"}


def test_the_default_needs_no_labels() -> None:
    for kind in OutputKind:
        assert not any(METRICS[r.metric].needs_label for r in default_policy({"out": SPECS[kind]}, "fp16").rules)


def test_the_default_of_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'fp16'"):
        default_policy(OUTPUTS, "fp-16")


def test_the_default_of_no_outputs_is_refused() -> None:
    with pytest.raises(PolicyError):
        default_policy({}, "fp16")


def test_a_policy_survives_json() -> None:
    adapter = TypeAdapter(Policy)
    example = policy_from_mapping(yaml.safe_load(EXAMPLE), {"score": SCORE, "traits": SCORE})
    for policy in (default_policy(OUTPUTS, "int8", slices=["level"]), example):
        assert adapter.validate_json(adapter.dump_json(policy)) == policy


UNIT = OutputSpec(kind=OutputKind.SCORE, low=1, high=6)
MET_BY_ALL = [
    *[(UNIT, metric, "max", 5.0) for metric in ("mae", "rmse", "max_abs", "p99_abs", "wasserstein", "mae_drop")],
    (UNIT, "bias", "within", 5.0),
    (UNIT, "relative_l2", "max", 5.0),
    (UNIT, "cosine", "min", 12 / 37),
    (SCORE, "mae", "max", 1.0),
    (SCORE, "cosine", "min", 0.0),
    (OutputSpec(kind=OutputKind.PROBABILITIES), "max_abs", "max", 1.0),
]


@pytest.mark.parametrize(("spec", "metric", "side", "limit"), MET_BY_ALL)
def test_a_limit_that_all_outputs_within_the_range_meet_is_refused(
    spec: OutputSpec, metric: str, side: str, limit: float
) -> None:
    def read(number: float) -> Policy:
        rule = {"output": "score", "metric": metric, side: number}
        return policy_from_mapping({"rules": [rule]}, {"score": spec})

    beyond = limit - 0.5 if side == "min" else limit * 1e9
    for number in (limit, beyond):
        with pytest.raises(PolicyError, match=rf"^policy\.yaml: rules\[0\]\.{side}: .* is met by any two outputs that"):
            read(number)
    read(limit + 1e-6 if side == "min" else limit * 0.999)


@pytest.mark.parametrize("low", [0.0, 1.0, -6.0, -3.0])
def test_no_two_outputs_within_a_range_are_worse_than_the_worst(low: float) -> None:
    spec, numbers = OutputSpec(kind=OutputKind.SCORE, low=low, high=low + 5), np.random.default_rng(0)
    for samples in (1, 2, 40):
        for _ in range(5):
            sides = [low + 5 * numbers.beta(0.2, 0.2, samples).round(numbers.integers(0, 3)) for _ in range(2)]
            if not all(np.any(side) for side in sides):
                continue  # the cosine of a zero vector is none
            comparison = Comparison({"score": spec}, plan=Bootstrap(confidence=0.9, resamples=200))
            comparison.update({"score": sides[0]}, {"score": sides[1]})
            for measured in comparison.result().measurements:
                worst = worst_in_range(measured.metric, spec)
                if worst is None or measured.value is None:
                    continue
                if METRICS[measured.metric].direction is Direction.HIGHER_IS_BETTER:
                    assert measured.value >= worst - 1e-9
                else:
                    assert abs(measured.value) <= worst + 1e-9


def test_without_a_range_no_limit_is_too_wide() -> None:
    policy_from_mapping({"rules": [MAE | {"max": 1e9}]}, {"score": OutputSpec(kind=OutputKind.SCORE)})
