"""Decisions fail closed, and damaged candidates do not get through the default policy."""

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import TypeAdapter

from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy, PolicyError, Rule, default_policy
from validation.verdict import Outcome, Verdict, decide

SCORE = OutputSpec(kind=OutputKind.SCORE, low=0, high=1)
MAE = Rule(output="out", metric="mae", max=0.01)
PEARSON = Rule(output="out", metric="pearson", min=0.99)
Compare = Callable[..., ComparisonResult]


def result(mae: float | None, *, n: int = 500, pearson: float = 1.0, defects: tuple[str, ...] = ()) -> ComparisonResult:
    values = {"mae": mae, "pearson": pearson}
    measurements = tuple(
        Measurement(output="out", column=None, metric=metric, value=value, n=n, note="why" if value is None else "")
        for metric, value in values.items()
    )
    return ComparisonResult(samples=n, measurements=measurements, defects=defects, slices=(), worst=())


def outcome(mae: float | None, **others: object) -> Outcome:
    return decide(Policy(rules=(MAE,)), result(mae, **others)).outcome


@pytest.mark.parametrize(("mae", "expected"), [(0.0, "pass"), (0.01, "pass"), (0.0101, "fail"), (None, "fail")])
def test_a_rule_passes_up_to_its_limit_and_not_beyond_or_undefined(mae: float | None, expected: str) -> None:
    assert outcome(mae).value == expected


@pytest.mark.parametrize(("pearson", "expected"), [(1.0, "pass"), (0.99, "pass"), (0.9899, "fail"), (-1.0, "fail")])
def test_a_rule_with_a_minimum_passes_down_to_it(pearson: float, expected: str) -> None:
    assert decide(Policy(rules=(PEARSON,)), result(0, pearson=pearson)).outcome.value == expected


@pytest.mark.parametrize("mae", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_fails(mae: float) -> None:
    assert outcome(mae) is Outcome.FAIL


@pytest.mark.parametrize(("mae", "expected"), [(0.0, "inconclusive"), (0.019, "inconclusive"), (0.02, "fail")])
def test_too_few_samples_are_inconclusive_unless_the_loss_is_twice_what_is_allowed(mae: float, expected: str) -> None:
    assert outcome(mae, n=199).value == expected
    assert outcome(mae, n=200).value == ("pass" if mae <= 0.01 else "fail")


def test_too_few_samples_with_a_defect_fail() -> None:
    assert outcome(0.0, n=5, defects=("out: bad",)) is Outcome.FAIL


def test_a_defect_fails_though_every_rule_passes() -> None:
    verdict = decide(Policy(rules=(MAE,)), result(0.0, defects=("out: the candidate has NaN",)))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.rules[0].outcome is Outcome.PASS
    assert verdict.defects == ("out: the candidate has NaN",)


def test_a_rule_on_something_that_was_not_measured_fails() -> None:
    verdict = decide(Policy(rules=(Rule(output="other", metric="mae", max=1),)), result(0.0))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.rules[0].sentence == "other mae was not measured, so the rule fails."


def test_no_samples_fail() -> None:
    empty = Comparison({"out": SCORE}, {}).result()
    verdict = decide(default_policy({"out": SCORE}, "fp16"), empty)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.defects == ("no sample was compared",)


def test_without_rules_there_is_no_decision() -> None:
    with pytest.raises(PolicyError):
        decide(Policy(rules=()), result(0.0))


def test_one_failing_rule_fails_all_and_is_the_worst() -> None:
    verdict = decide(Policy(rules=(MAE, PEARSON)), result(0.001, pearson=0.9))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.worst_rule.rule == PEARSON
    assert [rule.margin for rule in verdict.rules] == pytest.approx([0.9, -9.0])


def test_an_undefined_rule_is_the_worst() -> None:
    verdict = decide(Policy(rules=(PEARSON, MAE)), result(None, pearson=0.5))
    assert verdict.worst_rule.rule == MAE
    assert verdict.worst_rule.margin is None


def test_a_limit_without_any_allowance_passes_only_the_ideal() -> None:
    policy = Policy(rules=(Rule(output="out", metric="mae", max=0),))
    assert decide(policy, result(0.0)).outcome is Outcome.PASS
    assert decide(policy, result(1e-9)).outcome is Outcome.FAIL
    assert decide(policy, result(1e-9, n=3)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("mae", "n", "sentence"),
    [
        (0.004, 2000, "out mae is 0.004, within its maximum of 0.01 on 2,000 samples."),
        (0.04, 2000, "out mae is 0.04, beyond its maximum of 0.01 on 2,000 samples."),
        (
            0.004,
            20,
            "out mae is 0.004, within its maximum of 0.01 on 20 samples, fewer than the 200 that decide.",
        ),
        (None, 2000, "out mae has no value (why), so the rule fails."),
    ],
)
def test_every_rule_says_in_one_sentence_what_was_found(mae: float | None, n: int, sentence: str) -> None:
    assert decide(Policy(rules=(MAE,)), result(mae, n=n)).rules[0].sentence == sentence


def test_a_verdict_survives_json() -> None:
    adapter, verdict = TypeAdapter(Verdict), decide(Policy(rules=(MAE, PEARSON)), result(None, n=3))
    assert adapter.validate_json(adapter.dump_json(verdict)) == verdict


def failing(verdict: Verdict) -> set[str]:
    return {rule.rule.metric for rule in verdict.rules if rule.outcome is Outcome.FAIL}


def test_a_good_candidate_passes_the_default_policy(compare: Compare, score: np.ndarray, good: np.ndarray) -> None:
    for precision in ("fp32", "fp16", "int8"):
        verdict = decide(default_policy({"out": SCORE}, precision), compare(score, good))
        assert verdict.outcome is Outcome.PASS, verdict.worst_rule.sentence


def test_a_permuted_score_column_fails_the_gate(compare: Compare, score: np.ndarray) -> None:
    permuted = np.random.default_rng(1).permutation(score)
    verdict = decide(default_policy({"out": SCORE}, "int8"), compare(score, permuted))
    assert verdict.outcome is Outcome.FAIL
    assert failing(verdict) == {"mae_range", "pearson"}  # The distributions are the same: K-S and KL cannot see it.


DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda good: np.full_like(good, good.mean()),
    "sign flip": lambda good: -good,
    "upside down": lambda good: 1 - good,
    "saturated at the upper end": lambda good: np.minimum(good, np.quantile(good, 0.9)),
    "shifted": lambda good: good + 0.05,
    "one sample late": lambda good: np.roll(good, 1),
    "one per cent wrong by the whole range": lambda good: np.where(np.arange(good.size) % 100 == 0, good - 1, good),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_candidate_fails_the_default_policy(
    compare: Compare, score: np.ndarray, good: np.ndarray, damage: str
) -> None:
    damaged = DAMAGES[damage](good).astype(np.float32)
    assert decide(default_policy({"out": SCORE}, "int8"), compare(score, damaged)).outcome is Outcome.FAIL


def test_a_constant_candidate_fails_with_a_sentence_that_says_so(compare: Compare, score: np.ndarray) -> None:
    verdict = decide(Policy(rules=(PEARSON,)), compare(score, np.full_like(score, 0.5)))
    assert (
        verdict.rules[0].sentence
        == "out pearson has no value (undefined: the candidate is constant), so the rule fails."
    )


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.EMBEDDING, OutputKind.TENSOR, OutputKind.PROBABILITIES])
def test_other_kinds_pass_when_good_and_fail_when_damaged(
    compare: Compare, rng: np.random.Generator, kind: OutputKind
) -> None:
    reference = rng.dirichlet(np.ones(5) / 2, 600) if kind is OutputKind.PROBABILITIES else rng.normal(0, 4, (600, 5))
    noise = rng.normal(0, 1e-4, reference.shape)
    policy = default_policy({"out": OutputSpec(kind=kind)}, "fp16")
    assert decide(policy, compare(reference, reference + noise, kind, None)).outcome is Outcome.PASS
    for damaged in (-reference, np.roll(reference, 1, axis=0), reference * 0 + 0.2, reference[:, ::-1]):
        assert decide(policy, compare(reference, damaged, kind, None)).outcome is Outcome.FAIL


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_with_a_bad_number_fails_with_a_sentence_that_names_it(
    compare: Compare, score: np.ndarray, good: np.ndarray, value: float
) -> None:
    good[[7, 9]] = value
    verdict = decide(default_policy({"out": SCORE}, "fp16"), compare(score, good))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.defects == ("out: the candidate has NaN, Inf or a magnitude above 1e140 (2 samples: 7, 9)",)


def test_a_missing_output_fails_with_a_sentence_that_names_it(score: np.ndarray) -> None:
    comparison = Comparison({"out": SCORE}, {})
    comparison.update({"out": score}, {"other": score})
    verdict = decide(default_policy({"out": SCORE}, "fp16"), comparison.result())
    assert verdict.outcome is Outcome.FAIL
    assert verdict.defects[0].startswith("out: the candidate lacks this output (2,000 samples")
    assert verdict.defects[1].startswith("other: the candidate has this output, which is not declared")
