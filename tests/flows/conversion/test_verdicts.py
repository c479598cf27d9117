from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flows.conversion.verdicts import judge_together
from tasks.timings import PytorchForm
from tests.tasks.tiny import cell, latency, make_outcome, tiny_policy
from validation.policy import PerformanceRule, Policy, Rule
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from tasks.records import EngineOutcome
    from tasks.store.local import LocalStore

REFERENCE = PytorchForm.EAGER_FP32
MAE = Rule(output="score", metric="mae", max=0.01)
PVALUE = Rule(output="score", metric="ks_pvalue", min=0.05)
FASTER = PerformanceRule(metric="speedup_vs_reference", min=1.0)
EARNED = PerformanceRule(metric="speedup_vs_fp16", min=1.0, precision="int8")


def policy(*speeds: PerformanceRule, **changes: Any) -> Policy:
    return Policy(rules=(MAE,), performance=speeds, **changes)


def made(
    store: LocalStore,
    precision: str,
    rules: Policy,
    speedup: tuple[float, float, float] | None = (1.4, 1.5, 1.6),
    *,
    p50_ms: float = 4.0,
    target: str = "cpu",
    missing: str | None = None,
) -> EngineOutcome:
    """An engine as it was made: its speed-up over PyTorch with its bounds (None: not timed), and its median."""
    outcome = make_outcome(store, policy=rules, engine=cell(precision, target=target))
    assert outcome.benchmark
    speed = {REFERENCE: {8: speedup[1]}} if speedup else {}
    interval = {REFERENCE: {8: (speedup[0], speedup[2])}} if speedup else {}
    engine = outcome.benchmark.engine.model_copy(update={"latencies": (latency(8, p50_ms),)})
    change = {
        "engine": engine,
        "speedup": speed,
        "speedup_interval": interval,
        "missing": {REFERENCE: missing} if missing else {},
    }
    return outcome.model_copy(update={"benchmark": outcome.benchmark.model_copy(update=change)})


def last(*outcomes: EngineOutcome) -> list[tuple[str, str]]:
    """Outcome of each engine, and the sentences of its rules of performance."""
    judged = judge_together(outcomes)
    for outcome in judged:
        assert outcome.verdict
        assert outcome.outcome is outcome.verdict.outcome
    return [
        (found.outcome.value, " ".join(rule.sentence for rule in found.verdict.performance))
        for found in judged
        if found.verdict
    ]


@pytest.mark.parametrize(
    ("speedup", "outcome", "words"),
    [
        ((1.0, 1.5, 1.6), "pass", "is 1.5, at least 1 and at most 1.6: within its minimum of 1 (at batch 8)"),
        ((0.9, 1.5, 1.6), "inconclusive", "not decided against its minimum of 1"),
        ((0.7, 0.8, 0.9), "fail", "beyond its minimum of 1"),
        (None, "inconclusive", "is not known (PyTorch was not timed: there was none beside the engine)"),
    ],
)
def test_an_engine_has_to_be_as_fast_as_its_rule_says(
    store: LocalStore, speedup: tuple[float, float, float] | None, outcome: str, words: str
) -> None:
    provisional = made(store, "fp32", policy(FASTER), speedup)
    assert provisional.outcome is Outcome.PASS
    ((found, sentence),) = last(provisional)
    assert found == outcome
    assert words in sentence


def test_why_pytorch_was_not_timed_is_told(store: LocalStore) -> None:
    ((found, sentence),) = last(made(store, "fp32", policy(FASTER), None, missing="no kernel for Half"))
    assert (found, "PyTorch was not timed: no kernel for Half" in sentence) == ("inconclusive", True)


@pytest.mark.parametrize(
    ("fp16", "int8", "outcome", "ratio"),
    [
        ((1.0, 1.1, 1.2), (1.8, 2.0, 2.2), "pass", "is 1.82, at least 1.5 and at most 2.2"),
        ((1.0, 1.5, 2.0), (1.5, 2.0, 2.5), "inconclusive", "is 1.33, at least 0.75 and at most 2.5"),
        ((1.8, 2.0, 2.2), (1.0, 1.1, 1.2), "fail", "is 0.55, at least 0.455 and at most 0.667"),
    ],
)
def test_int8_has_to_earn_its_place_beside_fp16_by_what_both_gain_over_pytorch(
    store: LocalStore,
    fp16: tuple[float, float, float],
    int8: tuple[float, float, float],
    outcome: str,
    ratio: str,
) -> None:
    rules = policy(EARNED)
    found = last(made(store, "fp16", rules, fp16, p50_ms=1.0), made(store, "int8", rules, int8, p50_ms=9.0))
    assert found[0] == ("pass", ""), "the rule is on int8 alone"
    assert found[1][0] == outcome
    assert ratio in found[1][1]
    assert "both against PyTorch, at batch 8" in found[1][1]


def test_without_pytorch_int8_and_fp16_are_compared_by_their_medians(store: LocalStore) -> None:
    rules = policy(EARNED)
    engines = made(store, "fp16", rules, None, p50_ms=8.0), made(store, "int8", rules, None, p50_ms=4.0)
    _, (found, sentence) = last(*engines)
    assert found == "pass"
    assert "is 2, at least 1.64 and at most 2.44" in sentence  # medians are known to a tenth
    assert "one timed after the other" in sentence


def test_the_fp16_engine_is_as_fast_as_itself(store: LocalStore) -> None:
    every = PerformanceRule(metric="speedup_vs_fp16", min=1.0)
    ((found, sentence),) = last(made(store, "fp16", policy(every), (0.1, 0.5, 0.9)))
    assert found == "pass"
    assert "is 1, at least 1 and at most 1" in sentence


def test_an_fp16_engine_of_another_target_is_none(store: LocalStore) -> None:
    rules = policy(EARNED)
    other, found = last(made(store, "fp16", rules, target="t4"), made(store, "int8", rules))
    assert other[0] == "pass"
    assert found[0] == "inconclusive"
    assert "is not known (this conversion makes no fp16 engine of the target)" in found[1]


def test_an_fp16_engine_that_could_not_be_timed_leaves_int8_undecided(store: LocalStore) -> None:
    rules = policy(EARNED)
    crashed = made(store, "fp16", rules).model_copy(
        update={"benchmark": None, "verdict": None, "outcome": Outcome.FAIL, "reason": "it crashed"}
    )
    kept, int8 = judge_together([crashed, made(store, "int8", rules)])
    assert kept == crashed
    assert int8.verdict
    assert int8.outcome is Outcome.INCONCLUSIVE
    assert "the fp16 engine was not timed" in int8.verdict.performance[0].sentence


def test_more_confidence_than_a_benchmark_has_decides_nothing(store: LocalStore) -> None:
    ((found, sentence),) = last(made(store, "fp32", policy(FASTER, confidence=0.95), (1.4, 1.5, 1.6)))
    assert found == "pass"
    sure = made(store, "fp32", policy(FASTER), (1.4, 1.5, 1.6))
    assert sure.compared
    comparison = replace(sure.compared.comparison, confidence=0.99)
    sure = sure.model_copy(
        update={
            "policy": policy(FASTER, confidence=0.99),
            "compared": sure.compared.model_copy(update={"comparison": comparison}),
        }
    )
    ((found, sentence),) = last(sure)
    assert found == "inconclusive"
    assert "its bounds hold at 0.96, and the policy asks for 0.99" in sentence


def with_pvalue(outcome: EngineOutcome, value: float) -> EngineOutcome:
    """The outcome with another p-value of D, and the provisional verdict that follows."""
    assert outcome.compared
    assert outcome.policy
    comparison = replace(
        outcome.compared.comparison,
        measurements=tuple(
            replace(m, value=value) if m.metric == "ks_pvalue" else m for m in outcome.compared.comparison.measurements
        ),
    )
    verdict = decide(outcome.policy, comparison, precision=outcome.cell.precision.value)
    compared = outcome.compared.model_copy(update={"comparison": comparison})
    return outcome.model_copy(update={"compared": compared, "verdict": verdict, "outcome": verdict.outcome})


def test_p_values_are_corrected_over_the_engines_of_a_conversion(store: LocalStore) -> None:
    rules = Policy(rules=(MAE, PVALUE))
    engines = [with_pvalue(made(store, precision, rules), p) for precision, p in (("fp16", 0.03), ("int8", 0.04))]
    assert [engine.outcome for engine in engines] == [Outcome.FAIL, Outcome.FAIL], "each alone"
    judged = judge_together(engines)
    assert [engine.outcome for engine in judged] == [Outcome.PASS, Outcome.PASS]
    for engine, other in zip(judged, (0.04, 0.03), strict=True):
        assert engine.verdict
        assert engine.verdict.other_pvalues == (other,)
        assert engine.verdict.rules[1].adjusted == pytest.approx(0.06)
        assert "after Holm's correction for 2 tests" in engine.verdict.rules[1].sentence
    worse = [with_pvalue(made(store, precision, rules), p) for precision, p in (("fp16", 0.001), ("int8", 0.9))]
    assert [engine.outcome for engine in judge_together(worse)] == [Outcome.FAIL, Outcome.PASS]


def test_judging_twice_changes_nothing(store: LocalStore) -> None:
    rules = Policy(rules=(MAE, PVALUE), performance=(FASTER, EARNED))
    once = judge_together([made(store, "fp16", rules), made(store, "int8", rules)])
    assert judge_together(once) == once


def test_a_verdict_is_settled_unless_it_takes_the_other_engines(store: LocalStore) -> None:
    assert make_outcome(store).is_settled
    assert make_outcome(store).model_copy(update={"verdict": None}).is_settled
    assert not make_outcome(store, policy=policy(FASTER)).is_settled
    assert not make_outcome(store, policy=Policy(rules=(MAE, PVALUE))).is_settled
    before = make_outcome(store, policy=tiny_policy())
    (after,) = judge_together([before])
    assert after.outcome is before.outcome
    assert after.verdict
    assert after.verdict.speedups is not None
