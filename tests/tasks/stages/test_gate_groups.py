"""The gate on samples that are no independent ones: what was tried on it, and what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.stages.gate import judge_files
from validation.verdict import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.stages.gate import Judgement

LIMIT = {"mae": 0.01, "pearson": 0.99, "ks": 0.05, "top1_agreement": 0.99}
POLICY = f"""
outputs:
  score: {{kind: score, range: [0, 1]}}
  shifted: {{kind: score, range: [0, 1]}}
  alike: {{kind: score}}
  grade: {{kind: logits}}
rules:
  - {{output: score, metric: mae, max: {LIMIT["mae"]}}}
  - {{output: alike, metric: pearson, min: {LIMIT["pearson"]}}}
  - {{output: shifted, metric: ks, max: {LIMIT["ks"]}}}
  - {{output: grade, metric: top1_agreement, min: {LIMIT["top1_agreement"]}}}
resamples: 200
"""
DRAWS = 200
PROMISED = 0.06


def at_the_limit(random: np.random.Generator, samples: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of an engine whose every metric is at its limit in all that it might ever see."""
    score, alike, logits = random.random(samples), random.standard_normal(samples), random.normal(size=(samples, 5))
    wrong = random.random(samples) > LIMIT["top1_agreement"]
    noise = np.sqrt(1 - LIMIT["pearson"] ** 2) * random.standard_normal(samples)
    candidate = {
        "score": score + random.exponential(LIMIT["mae"], samples) * random.choice([-1, 1], samples),
        "shifted": np.where((score < 0.5) & (random.random(samples) < 2 * LIMIT["ks"]), score + 0.5, score),
        "alike": LIMIT["pearson"] * alike + noise,
        "grade": np.where(wrong[:, None], np.roll(logits, 1, axis=1), logits),
    }
    return {"score": score, "shifted": score, "alike": alike, "grade": logits}, candidate


def judge(folder: Path, reference: dict[str, Any], candidate: dict[str, Any], policy: str = POLICY) -> Judgement:
    np.savez(folder / "reference.npz", **reference)
    np.savez(folder / "candidate.npz", **candidate)
    (folder / "policy.yaml").write_text(policy)
    return judge_files(folder / "reference.npz", folder / "candidate.npz", folder / "policy.yaml")


def repeated(arrays: dict[str, Any], times: int) -> dict[str, Any]:
    return {name: np.concatenate([array] * times) for name, array in arrays.items()}


def passing(folder: Path, samples: int, times: int, *, named: bool, draws: int = DRAWS) -> dict[str, float]:
    """The share of draws in which each metric's rule passes at its limit, of samples that all come several times."""
    random, passed = np.random.default_rng(15), dict.fromkeys(LIMIT, 0)
    for _ in range(draws):
        reference, candidate = (repeated(side, times) for side in at_the_limit(random, samples))
        group = {"group": np.tile(np.arange(samples), times)} if named else {}
        verdict = judge(folder, reference | group, candidate).verdict
        for result in verdict.rules:
            passed[result.rule.metric] += result.outcome is Outcome.PASS
    return {metric: count / draws for metric, count in passed.items()}


def test_thirty_samples_ten_times_do_not_pass_at_the_limit(tmp_path: Path) -> None:
    assert passing(tmp_path, 30, 10, named=False, draws=60) == dict.fromkeys(LIMIT, 0.0)


@pytest.mark.hardship(only=True)
def test_samples_that_come_ten_times_pass_at_the_limit_as_seldom_as_is_promised(tmp_path: Path) -> None:
    shares = passing(tmp_path, 300, 10, named=True)
    assert max(shares.values()) <= PROMISED, shares


def test_one_sample_ten_thousand_times_is_inconclusive(tmp_path: Path) -> None:
    reference, candidate = (repeated(side, 10_000) for side in at_the_limit(np.random.default_rng(0), 1))
    judged = judge(tmp_path, reference, candidate | {"grade": reference["grade"], "score": reference["score"]})
    assert judged.verdict.rules[0].outcome is Outcome.INCONCLUSIVE
    assert judged.verdict.outcome is not Outcome.PASS
    assert judged.comparison.independent == 1
    assert "on 1 independent sample (10,000 rows), fewer than the 300 that decide" in judged.verdict.rules[0].sentence


SMALL = "outputs: {score: {kind: score, range: [0, 1]}}\nrules: [{output: score, metric: mae, max: 0.01}]\n"
SCORES = np.random.default_rng(5).random(400)


def test_a_group_may_lie_in_several_shards_and_is_no_output(tmp_path: Path) -> None:
    for side in ("reference", "candidate"):
        (tmp_path / side).mkdir()
        for number, part in enumerate(np.split(np.arange(400), [150])):
            group = {} if side == "candidate" else {"group": part % 50}
            np.savez(tmp_path / side / f"{number}.npz", score=SCORES[part], **group)
    (tmp_path / "policy.yaml").write_text(SMALL)
    judged = judge_files(tmp_path / "reference", tmp_path / "candidate", tmp_path / "policy.yaml")
    assert (judged.comparison.samples, judged.comparison.independent, judged.named) == (400, 50, True)
    assert judged.verdict.defects == ()
    assert judged.verdict.rules[0].n == 50


def test_equal_outputs_of_other_samples_count_where_their_groups_say_so(tmp_path: Path) -> None:
    grades = np.arange(400) % 6 / 5
    assert judge(tmp_path, {"score": grades}, {"score": grades}, SMALL).comparison.independent == 6
    judged = judge(tmp_path, {"score": grades, "label": np.arange(400)}, {"score": grades}, SMALL)
    assert judged.comparison.independent is None
    judged = judge(tmp_path, {"score": grades, "group": np.arange(400)}, {"score": grades}, SMALL)
    assert (judged.verdict.outcome, judged.comparison.independent) == (Outcome.PASS, None)


@pytest.mark.parametrize("group", [np.arange(399), np.zeros((400, 1), int), np.arange(400.0), np.ones(400, bool)])
def test_a_group_that_names_none_is_bad_input(tmp_path: Path, group: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"reference.npz: group has shape .* 400 samples; name the group of each"):
        judge(tmp_path, {"score": SCORES, "group": group}, {"score": SCORES}, SMALL)


def test_an_output_called_group_is_an_output(tmp_path: Path) -> None:
    policy = SMALL.replace("score:", "group:").replace("output: score", "output: group")
    judged = judge(tmp_path, {"group": SCORES}, {"group": SCORES}, policy)
    assert (judged.verdict.outcome, judged.named) == (Outcome.PASS, False)


def test_near_repeats_among_embeddings_are_told_and_not_joined(tmp_path: Path) -> None:
    policy = "outputs: {out: {kind: embedding}}\nrules: [{output: out, metric: cosine, min: 0.99}]\n"
    vectors = np.random.default_rng(3).standard_normal((300, 32))
    judged = judge(tmp_path, {"out": vectors}, {"out": vectors}, policy)
    assert (judged.near, judged.searched) == (0, 300)
    twice = np.concatenate([vectors, vectors[:50] * (1 + 1e-6)])
    judged = judge(tmp_path, {"out": twice}, {"out": twice}, policy)
    assert (judged.near, judged.searched, judged.comparison.independent) == (50, 350, None)
