"""Faults that an engine can have do not get through the default policy, and a good engine does."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.special import expit

from tests.validation.cases import AXES, pair_of, run
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import default_policy
from validation.rules import PRECISIONS
from validation.verdict import Outcome, Verdict, decide

N, COLUMNS, LEVELS = 2_400, 3, 6
OUTPUTS = {name: OutputSpec(kind=OutputKind.SCORE, low=0, high=1) for name in ("score", "traits")}
PLAN = Bootstrap(resamples=200)
Scores = dict[str, np.ndarray]
Rules = set[tuple[str, str, str | None]]


def make_reference() -> tuple[Scores, np.ndarray]:
    """Scores that follow the essay's level through a sigmoid, and traits that follow the score."""
    rng = np.random.default_rng(20261121)
    level = np.arange(N) % LEVELS + 1
    ability = (level - 3.5) * 0.8 + rng.normal(0, 0.5, N)
    score = expit(ability)
    traits = expit(ability[:, None] + rng.normal([0.4, 0, -0.4], 0.4, (N, COLUMNS)))
    return {"score": score.astype(np.float32), "traits": traits.astype(np.float32)}, level


REFERENCE, LEVEL = make_reference()


def engine(seed: int = 0) -> Scores:
    """A good engine: its error is normal, 0.002 of the range."""
    rng = np.random.default_rng(seed)
    return {name: (side + rng.normal(0, 0.002, side.shape)).astype(np.float32) for name, side in REFERENCE.items()}


def in_both(damage: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Scores]:
    return lambda: {name: damage(side).astype(np.float32) for name, side in engine().items()}


def biased_in_one_level(scores: np.ndarray) -> np.ndarray:
    at = (LEVEL == 3).reshape(-1, *(1,) * (scores.ndim - 1))
    return np.where(at, scores + 0.06, scores - 0.06 / (LEVELS - 1))


def wrong_by_the_whole_range(scores: np.ndarray) -> np.ndarray:
    """Three per cent of samples: what was low is 1 higher, what was high 1 lower."""
    at = (np.arange(N) % 33 == 5).reshape(-1, *(1,) * (scores.ndim - 1))
    return np.where(at, np.where(scores < 0.5, scores + 1, scores - 1), scores)


DAMAGES: dict[str, Callable[[], Scores]] = {
    "columns permuted": lambda: engine() | {"traits": engine()["traits"][:, [1, 0, 2]]},
    "samples permuted": in_both(lambda scores: np.random.default_rng(1).permutation(scores)),
    "one sample late": in_both(lambda scores: np.roll(scores, 1, axis=0)),
    "3 % wrong by the whole range": in_both(wrong_by_the_whole_range),
    "one level biased, the mean right": in_both(biased_in_one_level),
    "constant": in_both(lambda scores: np.full_like(scores, scores.mean())),
    "upside down": in_both(lambda scores: 1 - scores),
    "negated": in_both(lambda scores: -scores),
    "saturated above 0.85": in_both(lambda scores: np.minimum(scores, 0.85)),
}

CAUGHT: dict[str, Rules] = {
    "columns permuted": {
        *(("traits", metric, None) for metric in ("mae", "bias", "median_sd")),
        *(("traits", metric, "level") for metric in ("mae", "bias")),
    },
    "samples permuted": {("score", "mae", None), ("score", "p99_sd", None), ("score", "mae", "level")},
    "one sample late": {("score", "mae", None), ("score", "p99_sd", None), ("score", "bias", "level")},
    "3 % wrong by the whole range": {
        *((output, metric, None) for output in ("score", "traits") for metric in ("mae", "p99_abs", "p99_sd")),
    },
    "one level biased, the mean right": {("score", "mae", "level"), ("score", "bias", "level")},
    "constant": {("score", metric, None) for metric in ("mae", "p99_sd", "ks")},
    "upside down": {("score", metric, None) for metric in ("mae", "p99_sd")},
    "negated": {("score", metric, None) for metric in ("mae", "bias", "p99_sd", "median_sd", "ks")},
    "saturated above 0.85": {("score", "ks", None), ("score", "bias", "level")},
}
"""Rules that fail by FP16's limits and by INT8's."""


@cache
def compare(damage: str) -> ComparisonResult:
    candidate = DAMAGES[damage]() if damage in DAMAGES else engine(int(damage))
    comparison = Comparison(OUTPUTS, by={name: {"level": METRICS} for name in OUTPUTS}, plan=PLAN)
    comparison.update(REFERENCE, candidate, slices={"level": LEVEL})
    return comparison.result()


def judge(damage: str, precision: str) -> Verdict:
    policy = replace(default_policy(OUTPUTS, precision, slices=["level"]), resamples=PLAN.resamples)
    return decide(policy, compare(damage), precision=precision)


def failing(verdict: Verdict) -> Rules:
    return {(r.rule.output, r.rule.metric, r.rule.by) for r in verdict.rules if r.outcome is Outcome.FAIL}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_fails_the_default_policy_by_the_rules_that_are_there_for_it(
    damage: str, precision: str
) -> None:
    verdict = judge(damage, precision)
    assert verdict.outcome is Outcome.FAIL
    assert failing(verdict) >= CAUGHT[damage]
    assert verdict.defects == ()


def test_permuted_columns_leave_the_score_alone() -> None:
    assert {output for output, _, _ in failing(judge("columns permuted", "int8"))} == {"traits"}


def test_permuted_samples_are_seen_by_what_pairs_samples_alone() -> None:
    found = failing(judge("samples permuted", "fp16"))
    assert {metric for _, metric, by in found if by is None} == {"mae", "p99_abs", "p99_sd"}


def test_one_biased_level_is_seen_in_that_level_alone() -> None:
    verdict = judge("one level biased, the mean right", "int8")
    assert {(r.rule.by, r.group) for r in verdict.rules if r.outcome is Outcome.FAIL} == {("level", "3")}


@pytest.mark.parametrize("seed", ["0", "1", "2"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_good_engine_passes_the_default_policy(seed: str, precision: str) -> None:
    verdict = judge(seed, precision)
    assert verdict.outcome is Outcome.PASS, verdict.worst_rule.sentence


def test_the_default_policy_as_it_is_passes_the_good_and_fails_the_bad() -> None:
    score = REFERENCE["score"]
    spec = OutputSpec(kind=OutputKind.SCORE, low=0, high=1)
    policy = default_policy({"out": spec}, "fp16")
    for candidate, expected in ((engine()["score"], Outcome.PASS), (np.roll(score, 1), Outcome.FAIL)):
        comparison = Comparison({"out": spec})
        comparison.update({"out": score}, {"out": candidate})
        assert decide(policy, comparison.result()).outcome is expected


ENDS = {"low": 0.0, "high": 1.0}
EVERY = [(kind, {}, 1.0) for kind in OutputKind] + [(OutputKind.SCORE, ENDS, spread) for spread in (1.0, 0.1, 0.01)]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("kind", "ends", "spread"), EVERY)
def test_as_many_samples_as_the_default_asks_for_are_enough_for_an_engine_without_a_fault(
    kind: OutputKind, ends: dict[str, float], spread: float, precision: str
) -> None:
    spec = OutputSpec(kind=kind, axis=AXES.get(kind), **ends)
    policy = default_policy({"out": spec}, precision)
    n = policy.min_samples
    if kind is OutputKind.SCORE:
        reference = 0.4 + spread * (REFERENCE["score"][:n] - 0.4)
    else:
        reference = make_other(kind)[:n] if kind in OTHER_KINDS else pair_of(kind, 3, n)[0]
    comparison = Comparison({"out": spec})
    comparison.update({"out": reference}, {"out": reference})
    verdict = decide(policy, comparison.result())
    assert verdict.outcome is Outcome.PASS, verdict.worst_rule.sentence


def test_too_few_samples_pass_nothing() -> None:
    policy = replace(default_policy(OUTPUTS, "int8", slices=["level"]), resamples=PLAN.resamples)
    comparison = Comparison(OUTPUTS, by=policy.slices, plan=PLAN)
    half = {name: side[:1_200] for name, side in REFERENCE.items()}
    comparison.update(half, half, slices={"level": LEVEL[:1_200]})
    verdict = decide(policy, comparison.result())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    undecided = [r.rule for r in verdict.rules if r.outcome is Outcome.INCONCLUSIVE]
    assert {r.metric for r in undecided if r.by == "level"} == {"mae", "bias"}
    assert not [r for r in undecided if r.by is None]


ANY_SCORE = OutputSpec(kind=OutputKind.SCORE)


@pytest.mark.parametrize("damage", sorted(set(DAMAGES) - {"columns permuted", "one level biased, the mean right"}))
def test_a_damaged_score_without_a_range_fails_too(damage: str) -> None:
    candidate = DAMAGES[damage]()["score"]
    assert judge_score_without_a_range(candidate) is Outcome.FAIL


def test_a_good_score_without_a_range_passes_too() -> None:
    assert judge_score_without_a_range(engine()["score"]) is Outcome.PASS


def judge_score_without_a_range(candidate: np.ndarray) -> Outcome:
    policy = replace(default_policy({"out": ANY_SCORE}, "int8"), resamples=PLAN.resamples)
    return decide(policy, run(REFERENCE["score"], candidate, plan=PLAN)).outcome


OTHER_KINDS = (OutputKind.EMBEDDING, OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.TENSOR)


def make_other(kind: OutputKind) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind is OutputKind.PROBABILITIES:
        return rng.dirichlet(np.ones(8) / 2, 1_000)
    return rng.normal(0, 4, (1_000, 8))


OTHER_DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "columns permuted": lambda r: r[:, [1, 0, 3, 2, 5, 4, 7, 6]],
    "samples permuted": lambda r: np.random.default_rng(1).permutation(r),
    "reversed": lambda r: r[:, ::-1],
    "constant": lambda r: np.full_like(r, 0.125),
    "negated": lambda r: -r,
    "5 % of another sample": lambda r: np.where(np.arange(len(r))[:, None] % 20 == 0, np.roll(r, 1, axis=0), r),
}


@cache
def compare_other(kind: OutputKind, damage: str) -> ComparisonResult:
    reference = make_other(kind)
    noise = np.random.default_rng(4).normal(0, 1e-4, reference.shape)
    candidate = OTHER_DAMAGES[damage](reference) if damage else reference + noise
    return run(reference, candidate, kind, plan=PLAN)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_pass_when_good_and_fail_when_damaged(kind: OutputKind, precision: str) -> None:
    policy = replace(default_policy({"out": OutputSpec(kind=kind)}, precision), resamples=PLAN.resamples)
    good = decide(policy, compare_other(kind, ""))
    assert good.outcome is Outcome.PASS, good.worst_rule.sentence
    for damage in OTHER_DAMAGES:
        assert decide(policy, compare_other(kind, damage)).outcome is Outcome.FAIL, damage


def test_fp8_is_judged_as_int8_and_bf16_halfway_between_fp16_and_int8() -> None:
    spec = {"out": OutputSpec(kind=OutputKind.SCORE, low=0, high=2)}
    limits = {one: [rule.limit for rule in default_policy(spec, one, ["level"]).rules] for one in PRECISIONS}
    assert limits["fp8"] == limits["int8"]
    assert limits["bf16"] == pytest.approx((np.array(limits["fp16"]) + limits["int8"]) / 2)
    assert limits["fp32"] != limits["fp16"] != limits["bf16"] != limits["int8"]
