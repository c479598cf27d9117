"""Decisions have three values, fail closed, and say in plain words what was found."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from statsmodels.stats.multitest import multipletests

from tests.validation.cases import FEW, policy_of, rule, run
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.outputs import OutputKind, OutputSpec
from validation.policy import PerformanceRule, Policy, PolicyError, Rule, default_policy
from validation.verdict import Outcome, RuleResult, Speedup, Verdict, decide, holm

SCORE = OutputSpec(kind=OutputKind.SCORE, low=0, high=1)
PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
LIMITS = {"mae": {"max": 0.01}, "pearson": {"min": 0.99}, "bias": {"within": 0.005}, "max_abs": {"max": 0.1}}


def measured(
    metric: str, value: float | None, low: float | None = None, high: float | None = None, **others: object
) -> Measurement:
    """A measurement on 500 samples whose `seen` bounds are its bounds."""
    keys = {"output": "out", "column": None, "n": 500, "note": ""} | others
    return Measurement(metric=metric, value=value, low=low, high=high, low_seen=low, high_seen=high, **keys)


def result_of(*measurements: Measurement, **others: object) -> ComparisonResult:
    plain = ComparisonResult(
        samples=500, confidence=0.95, resamples=200, measurements=measurements, defects=(), slices=(), worst=()
    )
    return replace(plain, **others)


def judge(m: Measurement, **others: object) -> RuleResult:
    """The one result of the usual limit on a measurement."""
    (found,) = decide(policy_of(rule(m.metric, **LIMITS[m.metric]), **others), result_of(m)).rules
    return found


@pytest.mark.parametrize(
    ("metric", "value", "low", "high", "expected"),
    [
        ("mae", 0.004, 0.003, 0.005, PASS),
        ("mae", 0.004, 0.003, 0.01, PASS),
        ("mae", 0.004, None, 0.005, PASS),
        ("mae", 0.004, 0.003, 0.0101, INCONCLUSIVE),
        ("mae", 0.012, 0.01, 0.02, INCONCLUSIVE),
        ("mae", 0.012, 0.0101, 0.02, FAIL),
        ("mae", 0.012, 0.0101, None, FAIL),
        ("mae", 0.004, 0.003, None, INCONCLUSIVE),
        ("mae", 0.012, None, None, INCONCLUSIVE),
        ("pearson", 0.995, 0.992, 0.997, PASS),
        ("pearson", 0.995, 0.99, 0.997, PASS),
        ("pearson", 0.995, 0.992, None, PASS),
        ("pearson", 0.995, 0.9899, 0.997, INCONCLUSIVE),
        ("pearson", 0.985, 0.98, 0.99, INCONCLUSIVE),
        ("pearson", 0.985, 0.98, 0.9899, FAIL),
        ("pearson", 0.985, None, 0.9899, FAIL),
        ("pearson", 0.995, None, 0.997, INCONCLUSIVE),
        ("bias", 0.001, -0.001, 0.003, PASS),
        ("bias", 0.0, -0.005, 0.005, PASS),
        ("bias", 0.003, 0.001, 0.0051, INCONCLUSIVE),
        ("bias", -0.003, -0.0051, -0.001, INCONCLUSIVE),
        ("bias", 0.0, -0.006, 0.006, INCONCLUSIVE),
        ("bias", 0.007, 0.0051, 0.009, FAIL),
        ("bias", -0.007, -0.009, -0.0051, FAIL),
        ("bias", 0.001, None, 0.003, INCONCLUSIVE),
        ("bias", 0.001, -0.001, None, INCONCLUSIVE),
        ("max_abs", 0.1, 0.1, None, PASS),
        ("max_abs", 0.11, 0.11, None, FAIL),
    ],
)
def test_a_rule_passes_fails_or_is_inconclusive_by_its_bounds(
    metric: str, value: float, low: float | None, high: float | None, expected: Outcome
) -> None:
    assert judge(measured(metric, value, low, high)).outcome is expected


@given(st.floats(-0.02, 0.02), st.floats(0, 0.01), st.floats(0, 0.01))
def test_within_is_two_one_sided_tests(value: float, below: float, above: float) -> None:
    low, high = value - below, value + above
    found = judge(measured("bias", value, low, high)).outcome
    assert (found is PASS) == (low >= -0.005 and high <= 0.005)
    assert (found is FAIL) == (low > 0.005 or high < -0.005)


@pytest.mark.parametrize("metric", LIMITS)
def test_below_the_fewest_samples_nothing_is_decided(metric: str) -> None:
    for value in (0.0, 0.5):
        m = measured(metric, value, value, value, n=299)
        assert judge(m).outcome is INCONCLUSIVE
        assert judge(m, min_samples=299).outcome is not INCONCLUSIVE
        assert judge(m).needed >= 300


def test_the_sentence_on_few_samples_names_as_many_as_decide() -> None:
    found = judge(measured("mae", 0.0085, 0.0076, 0.0105, n=200))
    assert found.needed > 300
    assert f"{found.needed:,}" in found.sentence
    assert judge(measured("mae", 0.0001, 0.0, 0.0095, n=200)).needed == 300  # the bound clears the limit as it is


@pytest.mark.parametrize("metric", LIMITS)
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_metric_without_a_value_fails_even_on_few_samples(metric: str, value: float | None) -> None:
    for n in (5, 500):
        found = judge(measured(metric, value, n=n, note="undefined: why"))
        assert (found.outcome, found.value, found.margin) == (FAIL, None, None)
        assert found.sentence == f"out {metric} has no value on {n} samples (undefined: why), so the rule fails."


def test_a_constant_candidate_fails_and_equal_constants_pass() -> None:
    varied, flat = np.linspace(0, 1, 400), np.full(400, 0.5)
    policy = policy_of(rule("pearson", min=0.99))
    found = decide(policy, run(varied, flat))
    assert found.outcome is FAIL
    assert (
        found.rules[0].sentence
        == "out pearson has no value on 400 samples (undefined: the candidate is constant), so the rule fails."
    )
    assert decide(policy, run(flat, varied)).outcome is FAIL
    assert decide(policy, run(flat, flat + 0.1)).outcome is FAIL
    assert decide(policy, run(flat, flat)).outcome is PASS


def test_a_rule_on_something_that_was_not_measured_fails() -> None:
    verdict = decide(policy_of(Rule(output="other", metric="mae", max=1)), result_of(measured("mae", 0.0, 0.0, 0.0)))
    assert verdict.outcome is FAIL
    assert verdict.rules[0].sentence == "other mae was not measured, so the rule fails."
    assert (verdict.rules[0].value, verdict.rules[0].n, verdict.rules[0].margin) == (None, 0, None)


def test_a_rule_by_an_unknown_slice_fails_by_name() -> None:
    r = np.linspace(0, 1, 400)
    policy = policy_of(rule("mae", max=0.1, by="levle"))
    verdict = decide(policy, run(r, r, slices={"level": np.arange(400) % 2}, by=policy.slices["out"].keys()))
    assert verdict.outcome is FAIL
    assert (
        verdict.rules[0].sentence == "out mae by levle was not measured: no slice.levle in the data, so the rule fails."
    )


def by_level(value: float, group: str, n: int = 500) -> Measurement:
    return measured("mae", value, value, value, slice="level", group=group, n=n)


def test_a_rule_by_slice_is_judged_in_each_of_its_values_alone() -> None:
    result = result_of(
        by_level(0.001, "1"), by_level(0.1, "2"), by_level(0.001, "3", n=20), measured("mae", 0.0, 0.0, 0.0)
    )
    verdict = decide(policy_of(rule("mae", max=0.01, by="level")), result)
    assert [(found.group, found.outcome, found.n) for found in verdict.rules] == [
        ("1", PASS, 500),
        ("2", FAIL, 500),
        ("3", INCONCLUSIVE, 20),
    ]
    assert verdict.rules[1].sentence.startswith("out mae at level=2 is 0.1, ")
    assert "on 20 samples, fewer than the 300 that decide" in verdict.rules[2].sentence
    assert decide(policy_of(rule("mae", max=0.01)), result).outcome is PASS


def test_a_slice_of_too_few_samples_is_inconclusive() -> None:
    r = np.linspace(0, 1, 700)
    level = np.where(np.arange(700) < 10, "rare", "usual")
    policy = policy_of(rule("mae", max=0.1, by="level"))
    verdict = decide(policy, run(r, r, slices={"level": level}, by=["level"]))
    assert {found.group: found.outcome for found in verdict.rules} == {"rare": INCONCLUSIVE, "usual": PASS}
    assert verdict.outcome is INCONCLUSIVE


def test_a_slice_of_too_few_samples_for_a_metric_is_inconclusive_too() -> None:
    r = np.linspace(0, 1, 700)
    level = np.where(np.arange(700) < 2, "rare", "usual")
    policy = policy_of(rule("pearson", min=0.9, by="level"))
    verdict = decide(policy, run(r, r, slices={"level": level}, by=["level"]))
    assert {found.group: found.outcome for found in verdict.rules} == {"rare": INCONCLUSIVE, "usual": PASS}


def test_columns_are_judged_in_place_of_the_whole_and_the_worst_stands_for_all() -> None:
    whole = measured("mae", 0.5, 0.4, 0.6)
    columns = [measured("mae", 0.001, 0.001, 0.001, column=0), measured("mae", 0.02, 0.015, 0.03, column=1)]
    (found,) = decide(policy_of(rule("mae", max=0.01)), result_of(whole, *columns)).rules
    assert (found.value, found.column, found.outcome) == (0.02, 1, FAIL)


def test_a_column_that_surely_fails_fails_the_whole() -> None:
    r = np.random.default_rng(0).random((2_000, 2))
    c = r.copy()
    c[:, 0] += 0.0115  # beyond the limit in every sample
    c[:2, 1] += 6  # perhaps beyond it
    assert decide(policy_of(rule("mae", max=0.01)), run(r, c)).outcome is FAIL


def test_the_verdict_is_the_worst_of_its_rules() -> None:
    rules = tuple(rule(metric, **LIMITS[metric]) for metric in ("mae", "pearson", "bias"))
    good = (measured("mae", 0, 0, 0), measured("pearson", 1, 1, 1), measured("bias", 0, 0, 0))
    unsure = measured("pearson", 0.995, 0.98, 1)
    bad = measured("bias", 0.1, 0.09, 0.11)
    assert decide(policy_of(*rules), result_of(*good)).outcome is PASS
    assert decide(policy_of(*rules), result_of(good[0], unsure, good[2])).outcome is INCONCLUSIVE
    assert decide(policy_of(*rules), result_of(good[0], unsure, bad)).outcome is FAIL
    assert decide(policy_of(*rules), result_of(good[0], good[1], bad)).outcome is FAIL


def test_a_defect_fails_though_every_rule_passes() -> None:
    verdict = decide(policy_of(rule("mae", max=0.01)), result_of(measured("mae", 0, 0, 0), defects=("out: bad",)))
    assert (verdict.outcome, verdict.rules[0].outcome, verdict.defects) == (FAIL, PASS, ("out: bad",))
    few = result_of(measured("mae", 0, 0, 0, n=5), defects=("out: bad",))
    assert decide(policy_of(rule("mae", max=0.01)), few).outcome is FAIL


def test_no_samples_fail() -> None:
    verdict = decide(default_policy({"out": SCORE}, "fp16"), Comparison({"out": SCORE}).result())
    assert verdict.outcome is FAIL
    assert verdict.defects == ("no sample was compared",)
    assert {found.outcome for found in verdict.rules} == {FAIL}


def test_bounds_of_another_confidence_than_the_policy_s_are_a_defect() -> None:
    r = np.linspace(0, 1, 400)
    sure = policy_of(rule("mae", max=0.1), confidence=0.99, resamples=1000)
    assert decide(sure, run(r, r, plan=Bootstrap(confidence=0.99, resamples=1000))).outcome is PASS
    verdict = decide(sure, run(r, r))
    assert verdict.outcome is FAIL
    (defect,) = verdict.defects
    assert defect.startswith("measured at confidence 0.95 by ")
    assert defect.endswith(" resamples, not 0.99 by 1,000 as the policy asks")
    assert decide(policy_of(rule("mae", max=0.1), resamples=400), run(r, r)).outcome is FAIL


def test_other_resamples_than_the_policy_s_are_named() -> None:
    verdict = decide(policy_of(rule("mae", max=0.1), resamples=400), result_of(measured("mae", 0, 0, 0)))
    assert "resamples" in verdict.defects[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_with_a_bad_number_fails_with_a_sentence_that_names_it(
    score: np.ndarray, good: np.ndarray, value: float
) -> None:
    good[[7, 9]] = value
    verdict = decide(policy_of(rule("mae", max=0.1)), run(score, good))
    assert verdict.outcome is FAIL
    assert verdict.defects == ("out: the candidate has NaN, Inf or a magnitude above 1e140 (2 samples: 7, 9)",)


def test_a_missing_output_fails_with_a_sentence_that_names_it(score: np.ndarray) -> None:
    comparison = Comparison({"out": SCORE}, plan=FEW)
    comparison.update({"out": score}, {"other": score})
    verdict = decide(policy_of(rule("mae", max=0.1)), comparison.result())
    assert verdict.outcome is FAIL
    assert verdict.defects[0].startswith("out: the candidate lacks this output (1,000 samples")
    assert verdict.defects[1].startswith("other: the candidate has this output, which is not declared")
    assert verdict.rules[0].sentence.startswith("out mae has no value on 0 samples (no sample could be compared)")


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:, None], lambda c: c.astype(object)])
def test_other_lengths_shapes_and_objects_fail(score: np.ndarray, good: np.ndarray, damage: object) -> None:
    verdict = decide(policy_of(rule("mae", max=0.1)), run(score, damage(good)))
    assert verdict.outcome is FAIL
    assert len(verdict.defects) == 1


def test_without_rules_there_is_no_decision() -> None:
    with pytest.raises(PolicyError):
        decide(Policy(rules=()), result_of())


@pytest.mark.parametrize(
    ("m", "sentence"),
    [
        (
            measured("mae", 0.00412345, 0.003, 0.005, n=2_400),
            (
                "out mae is 0.004123, with 95 % confidence at least 0.003 and at most 0.005: within its maximum of 0.01"
                " on 2,400 samples."
            ),
        ),
        (
            measured("pearson", 0.5, 0.4, 0.6),
            (
                "out pearson is 0.5, with 95 % confidence at least 0.4 and at most 0.6: beyond its minimum of 0.99 on"
                " 500 samples."
            ),
        ),
        (
            measured("bias", 0.004, 0.003, 0.0061),
            (
                "out bias is 0.004, with 95 % confidence at least 0.003 and at most 0.0061: not decided against its"
                " bounds of ±0.005 on 500 samples, about 8,900 would decide."
            ),
        ),
        (
            measured("mae", 0.0099, 0.009, None, note="of 400 samples, drawn"),
            (
                "out mae is 0.0099, with 95 % confidence at least 0.009 and at most unknown: not decided against its"
                " maximum of 0.01 on 500 samples, and more samples would hardly decide it (of 400 samples, drawn)."
            ),
        ),
        (
            measured("mae", 0.001, 0.001, 0.001, n=20),
            (
                "out mae is 0.001, with 95 % confidence at least 0.001 and at most 0.001: not decided against its"
                " maximum of 0.01 on 20 samples, fewer than the 300 that decide."
            ),
        ),
        (
            measured("max_abs", 0.05, 0.05, None, note="column 1, the worst of 3"),
            "out max_abs is 0.05: within its maximum of 0.1 on 500 samples (column 1, the worst of 3).",
        ),
    ],
)
def test_every_rule_says_in_one_sentence_what_was_found(m: Measurement, sentence: str) -> None:
    assert judge(m).sentence == sentence


def test_a_sentence_names_the_policy_s_confidence() -> None:
    policy = policy_of(rule("mae", max=0.01), confidence=0.999, resamples=10_000)
    verdict = decide(policy, result_of(measured("mae", 0, 0, 0), confidence=0.999))
    assert verdict.rules[0].sentence.startswith("out mae is 0, with 99.9 % confidence at least 0 and at most 0:")


@pytest.mark.parametrize(
    ("m", "margin"),
    [
        (measured("mae", 0.004, 0.003, 0.005), 0.5),
        (measured("mae", 0.0, 0.0, 0.0), 1.0),
        (measured("mae", 0.02, 0.015, 0.03), -2.0),
        (measured("mae", 0.02, 0.015, None), None),
        (measured("pearson", 0.996, 0.995, 0.998), 0.5),
        (measured("pearson", 0.9, 0.89, 0.91), -10.0),
        (measured("pearson", 0.9, None, 0.91), None),
        (measured("bias", 0.001, -0.001, 0.0025), 0.5),
        (measured("bias", -0.001, -0.0025, 0.001), 0.5),
        (measured("bias", -0.001, -0.0025, None), None),
        (measured("max_abs", 0.025, 0.025, None), 0.75),
    ],
)
def test_the_margin_is_the_unused_share_of_what_the_limit_allows(m: Measurement, margin: float | None) -> None:
    assert judge(m).margin == (None if margin is None else pytest.approx(margin))


def test_a_candidate_that_is_better_than_the_reference_has_all_its_margin_and_no_more() -> None:
    m = measured("mae_drop", -0.1, -0.2, -0.05)
    assert decide(policy_of(rule("mae_drop", max=0.1)), result_of(m)).rules[0].margin == 1.0


def test_a_limit_without_any_allowance_passes_only_the_ideal() -> None:
    policy = policy_of(rule("mae", max=0))
    assert decide(policy, result_of(measured("mae", 0.0, 0.0, 0.0))).outcome is PASS
    assert decide(policy, result_of(measured("mae", 0.0, 0.0, 0.0))).rules[0].margin == 0
    assert decide(policy, result_of(measured("mae", 1e-9, 1e-10, 1e-8))).outcome is FAIL
    assert decide(policy, result_of(measured("mae", 1e-9, 1e-10, 1e-8))).rules[0].margin is None


def test_the_worst_rule_is_the_one_with_the_least_left_and_an_undefined_one_first() -> None:
    rules = tuple(rule(metric, **LIMITS[metric]) for metric in ("mae", "pearson"))
    verdict = decide(
        policy_of(*rules), result_of(measured("mae", 0.004, 0, 0.005), measured("pearson", 0.9, 0.89, 0.91))
    )
    assert verdict.worst_rule.rule.metric == "pearson"
    assert [found.margin for found in verdict.rules] == pytest.approx([0.5, -10])
    verdict = decide(policy_of(*rules), result_of(measured("mae", None), measured("pearson", 0.5, 0.4, 0.6)))
    assert verdict.worst_rule.rule.metric == "mae"


@settings(max_examples=12)
@given(st.lists(st.integers(0, 1_000).map(lambda number: number / 1_000), min_size=1, max_size=20))
def test_holm_s_correction_is_that_of_statsmodels(pvalues: list[float]) -> None:
    assert holm(pvalues) == pytest.approx(multipletests(pvalues, method="holm")[1].tolist(), abs=1e-12)


def test_no_p_values_need_no_correction() -> None:
    assert holm([]) == []


def pvalue(value: float, output: str = "out", **others: object) -> Measurement:
    return measured("ks_pvalue", value, output=output, **others)


def test_a_rule_on_a_p_value_fails_below_its_limit_and_passes_from_there() -> None:
    policy = policy_of(rule("ks_pvalue", min=0.05))
    for value, expected in ((0.5, PASS), (0.05, PASS), (0.0499, FAIL)):
        assert decide(policy, result_of(pvalue(value))).outcome is expected


def test_rules_on_p_values_are_corrected_over_outputs_slices_and_engines() -> None:
    policy = policy_of(
        rule("ks_pvalue", min=0.05),
        Rule(output="other", metric="ks_pvalue", min=0.05),
        rule("ks_pvalue", min=0.05, by="level"),
        rule("mae", max=0.01),
    )
    own = [0.012, 0.6, 0.02, 0.9]
    result = result_of(
        pvalue(own[0]),
        pvalue(own[1], "other"),
        pvalue(own[2], slice="level", group="1"),
        pvalue(own[3], slice="level", group="2"),
        measured("mae", 0, 0, 0),
    )
    alone = decide(policy, result)
    assert alone.pvalues == tuple(own)
    expected = multipletests(own, method="holm")[1]
    assert [found.adjusted for found in alone.rules[:4]] == pytest.approx(expected.tolist())
    assert alone.rules[0].outcome is FAIL  # 4 x 0.012 = 0.048
    others = (0.3, 0.013)
    together = decide(policy, result, other_pvalues=others)
    expected = multipletests([*own, *others], method="holm")[1][:4]
    assert [found.adjusted for found in together.rules[:4]] == pytest.approx(expected.tolist())
    assert [found.outcome for found in together.rules] == [PASS] * 5  # 6 x 0.012 = 0.072
    assert together.other_pvalues == others
    assert together.pvalues == tuple(own)
    assert together.rules[4].adjusted is None


def test_a_p_value_on_too_few_samples_is_inconclusive_and_no_test() -> None:
    policy = policy_of(rule("ks_pvalue", min=0.05), Rule(output="other", metric="ks_pvalue", min=0.05))
    verdict = decide(policy, result_of(pvalue(0.0001, n=50), pvalue(0.03, "other")))
    assert [found.outcome for found in verdict.rules] == [INCONCLUSIVE, FAIL]
    assert [found.adjusted for found in verdict.rules] == [None, 0.03]
    assert verdict.pvalues == (0.03,)


def test_a_p_value_that_is_missing_fails_and_is_no_test() -> None:
    verdict = decide(policy_of(rule("ks_pvalue", min=0.05)), result_of(pvalue(None)))
    assert (verdict.outcome, verdict.pvalues) == (FAIL, ())


def test_the_sentence_and_the_margin_of_a_p_value() -> None:
    policy = policy_of(rule("ks_pvalue", min=0.05), rule("ks_pvalue", min=0.05, by="level"))
    verdict = decide(policy, result_of(pvalue(0.004), pvalue(0.7, slice="level", group="2", n=700)))
    assert [found.sentence for found in verdict.rules] == [
        (
            "out ks_pvalue is 0.004, 0.008 after Holm's correction for 2 tests: below its minimum of 0.05 on 500"
            " samples, so the distributions differ."
        ),
        (
            "out ks_pvalue at level=2 is 0.7, 0.7 after Holm's correction for 2 tests: not below its minimum of 0.05 on"
            " 700 samples, so no difference is shown, which is not to say that there is none."
        ),
    ]
    # 0.95 of the way from 1 to 0 is allowed.
    assert [found.margin for found in verdict.rules] == pytest.approx([(0.95 - 0.992) / 0.95, (0.95 - 0.3) / 0.95])
    single = decide(policy_of(rule("ks_pvalue", min=0.05)), result_of(pvalue(0.004))).rules[0]
    assert "0.004 after Holm's correction for 1 test:" in single.sentence


def test_every_column_of_a_score_is_a_test() -> None:
    r = np.random.default_rng(0).random((400, 3))
    assert len(decide(policy_of(rule("ks_pvalue", min=0.05)), run(r, r)).pvalues) == 3


REFERENCE_SPEED = PerformanceRule(metric="speedup_vs_reference", min=1.0)
INT8_SPEED = PerformanceRule(metric="speedup_vs_fp16", min=1.2, precision="int8")


def judge_speed(speedups: dict[str, Speedup] | None, precision: str | None = "int8") -> Verdict:
    policy = policy_of(rule("mae", max=0.01), performance=(REFERENCE_SPEED, INT8_SPEED))
    return decide(policy, result_of(measured("mae", 0, 0, 0)), precision=precision, speedups=speedups)


FAST = Speedup(value=3.0, low=2.8, high=3.2)


@pytest.mark.parametrize(
    ("speedup", "expected"),
    [
        (Speedup(value=1.5, low=1.2, high=1.8), PASS),
        (Speedup(value=1.5, low=1.19, high=1.8), INCONCLUSIVE),
        (Speedup(value=1.1, low=1.0, high=1.2), INCONCLUSIVE),
        (Speedup(value=1.1, low=1.0, high=1.19), FAIL),
        (Speedup(value=None, note="no FP16 engine"), INCONCLUSIVE),
        (Speedup(value=1.5, high=1.8), INCONCLUSIVE),
        (Speedup(value=1.5, low=1.4), INCONCLUSIVE),
    ],
)
def test_a_rule_of_performance_has_three_values_too(speedup: Speedup, expected: Outcome) -> None:
    verdict = judge_speed({"speedup_vs_reference": FAST, "speedup_vs_fp16": speedup})
    assert [found.outcome for found in verdict.performance] == [PASS, expected]
    assert verdict.outcome is expected


def test_a_rule_of_performance_holds_for_its_precision_alone() -> None:
    speedups = {"speedup_vs_reference": FAST}
    for precision in ("fp16", "fp32", None):
        verdict = judge_speed(speedups, precision)
        assert [found.rule for found in verdict.performance] == [REFERENCE_SPEED]
        assert verdict.outcome is PASS


def test_a_speed_that_was_not_measured_is_inconclusive() -> None:
    verdict = judge_speed({"speedup_vs_reference": FAST})
    assert verdict.outcome is INCONCLUSIVE
    assert (
        verdict.performance[1].sentence
        == "speedup_vs_fp16 is not known (it was not measured): not decided against its minimum of 1.2."
    )


def test_without_speeds_rules_of_performance_are_not_judged() -> None:
    verdict = judge_speed(None)
    assert (verdict.performance, verdict.speedups, verdict.outcome) == ((), None, PASS)


def test_the_sentence_of_a_speed() -> None:
    verdict = judge_speed(
        {"speedup_vs_reference": FAST, "speedup_vs_fp16": Speedup(value=1, low=0.9, high=1.1, note="3 runs")}
    )
    assert [found.sentence for found in verdict.performance] == [
        "speedup_vs_reference is 3, at least 2.8 and at most 3.2: within its minimum of 1.",
        "speedup_vs_fp16 is 1, at least 0.9 and at most 1.1: beyond its minimum of 1.2 (3 runs).",
    ]
    assert verdict.sentences == (
        (PASS, verdict.rules[0].sentence),
        *((found.outcome, found.sentence) for found in verdict.performance),
    )


def test_a_verdict_can_be_decided_again_from_what_it_keeps() -> None:
    policy = policy_of(rule("mae", max=0.01), rule("ks_pvalue", min=0.05), performance=(REFERENCE_SPEED,))
    result = result_of(measured("mae", 0.0, 0.0, 0.0), pvalue(0.03))
    first = decide(policy, result, precision="int8", speedups={"speedup_vs_reference": FAST}, other_pvalues=[0.2])
    again = decide(policy, result, precision="int8", speedups=first.speedups, other_pvalues=first.other_pvalues)
    assert again == first


def test_a_verdict_survives_json() -> None:
    adapter = TypeAdapter(Verdict)
    for speedups in (None, {"speedup_vs_reference": FAST, "speedup_vs_fp16": Speedup(value=None, note="none")}):
        verdict = judge_speed(speedups)
        assert adapter.validate_json(adapter.dump_json(verdict)) == verdict
    verdict = decide(policy_of(rule("pearson", min=0.9), rule("mae", max=0.1)), result_of(measured("pearson", None)))
    assert adapter.validate_json(adapter.dump_json(verdict)) == verdict
