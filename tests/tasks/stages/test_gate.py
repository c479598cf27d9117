from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.stages.gate import judge_files
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from validation.verdict import Verdict

POLICY = """
outputs: {score: {kind: score, range: [0, 1]}}
rules:
  - {output: score, metric: mae, max: 0.01}
  - {output: score, metric: pearson, min: 0.9}
"""
SCORES = np.random.default_rng(5).random(400)


def judge(folder: Path, reference: Any, candidate: Any, policy: str = POLICY) -> Verdict:
    """Judge two arrays, two lists of arrays (folders of shards), or dicts of arrays by name, or lists of these."""
    for side, content in (("reference", reference), ("candidate", candidate)):
        if isinstance(content, list):
            (folder / side).mkdir()
            for number, array in enumerate(content):
                np.savez(folder / side / f"{number}.npz", **(array if isinstance(array, dict) else {"score": array}))
        elif isinstance(content, dict):
            np.savez(folder / f"{side}.npz", **content)
        else:
            np.savez(folder / f"{side}.npz", score=content)
    (folder / "policy.yaml").write_text(policy)
    paths = [
        folder / side if (folder / side).exists() else folder / f"{side}.npz" for side in ("reference", "candidate")
    ]
    judged = judge_files(*paths, folder / "policy.yaml")
    assert judged.verdict == decide(judged.policy, judged.comparison)
    return judged.verdict


def test_equal_outputs_pass_and_others_fail(tmp_path: Path) -> None:
    assert judge(tmp_path, SCORES, SCORES).outcome is Outcome.PASS
    assert judge(tmp_path, SCORES, SCORES + 0.02).outcome is Outcome.FAIL


def test_few_samples_are_inconclusive(tmp_path: Path) -> None:
    assert judge(tmp_path, SCORES[:50], SCORES[:50]).outcome is Outcome.INCONCLUSIVE


def test_folders_are_judged_as_one_and_shards_pair_by_name(tmp_path: Path) -> None:
    shards = np.split(SCORES, [100, 250])
    verdict = judge(tmp_path, shards, shards)
    assert (verdict.outcome, verdict.rules[0].n) == (Outcome.PASS, 400)


def test_permuted_samples_fail(tmp_path: Path) -> None:
    assert judge(tmp_path, SCORES, SCORES[::-1]).outcome is Outcome.FAIL


BAD_CANDIDATES: dict[str, Any] = {
    "NaN": np.where(SCORES > 0.99, np.nan, SCORES),
    "Inf": np.where(SCORES > 0.99, np.inf, SCORES),
    "one sample less": SCORES[:-1],
    "another rank": SCORES[:, None],
    "no numbers": SCORES.astype(str),
    "complex": SCORES.astype(complex),
    "zero samples": SCORES[:0],
    "a scalar": SCORES[0],
    "another output": {"scores": SCORES},
    "an output more": {"score": SCORES, "extra": SCORES},
}


@pytest.mark.parametrize("candidate", BAD_CANDIDATES.values(), ids=BAD_CANDIDATES)
def test_a_candidate_that_cannot_be_compared_fails_with_the_defect(tmp_path: Path, candidate: Any) -> None:
    verdict = judge(tmp_path, SCORES, candidate)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.defects


@pytest.mark.parametrize("empty", [SCORES[:0], np.float64(1)])
def test_nothing_to_compare_is_never_a_pass(tmp_path: Path, empty: Any) -> None:
    assert judge(tmp_path, empty, empty).outcome is Outcome.FAIL


def test_labels_and_slices_of_the_reference_are_no_outputs(tmp_path: Path) -> None:
    reference = {"score": SCORES, "label": SCORES, "slice.half": np.repeat(["a", "b"], 200)}
    assert judge(tmp_path, reference, SCORES).defects == ()
    judged = judge_files(tmp_path / "reference.npz", tmp_path / "candidate.npz", tmp_path / "policy.yaml")
    found = [(each.slice, each.value, each.n) for each in judged.comparison.slices]
    assert found == [("half", "a", 200), ("half", "b", 200)]


BY_HALF = POLICY + "  - {output: score, metric: bias, within: 0.02, by: half}\nmin_samples: 200\n"


def test_a_rule_by_slice_judges_each_of_its_values(tmp_path: Path) -> None:
    shifted = SCORES + np.repeat([0.0, 0.04], 200)
    halves = {"score": SCORES, "slice.half": np.repeat(["a", "b"], 200)}
    verdict = judge(tmp_path, halves, shifted, BY_HALF)
    assert [(rule.group, rule.outcome.value) for rule in verdict.rules if rule.rule.by] == [
        ("a", "pass"),
        ("b", "fail"),
    ]
    assert verdict.outcome is Outcome.FAIL


def test_an_unknown_slice_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"policy.yaml: rules\[2\].by: the data have no slice.half; they have no slice"
    ):
        judge(tmp_path, SCORES, SCORES, BY_HALF)
    halves = {"score": SCORES, "slice.halves": np.repeat(["a", "b"], 200)}
    with pytest.raises(InputError, match=r"no slice.half; did you mean 'halves'\?"):
        judge(tmp_path, halves, SCORES, BY_HALF)


def test_a_slice_or_label_of_some_shards_only_is_an_error(tmp_path: Path) -> None:
    shards = [{"score": part} for part in np.split(SCORES, 2)]
    reference = [{**shards[0], "label": shards[0]["score"]}, shards[1]]
    with pytest.raises(InputError, match=r"1.npz: label is in some shards only; give every shard the same"):
        judge(tmp_path, reference, shards)


DROPS = POLICY + "  - {output: score, metric: mae_drop, max: 0.01}\n"


def test_a_label_lets_rules_judge_what_is_lost_against_it(tmp_path: Path) -> None:
    assert judge(tmp_path, {"score": SCORES, "label": SCORES}, SCORES, DROPS).outcome is Outcome.PASS
    verdict = judge(tmp_path, {"score": SCORES, "label": SCORES}, SCORES + 0.02, DROPS)
    assert (verdict.rules[2].outcome, verdict.rules[2].value) == (Outcome.FAIL, pytest.approx(0.02))
    verdict = judge(tmp_path, {"score": SCORES, "label": np.ones((400, 2))}, SCORES, DROPS)
    assert "needs labels that fit this output, and there are none" in verdict.rules[2].sentence
    assert verdict.outcome is Outcome.FAIL


def test_a_rule_that_can_have_no_value_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"policy.yaml: rules\[2\]: score mae_drop .* none; add an array `label`"):
        judge(tmp_path, SCORES, SCORES, DROPS)
    policy = "outputs: {grade: {kind: logits}}\nrules: [{output: grade, metric: top5_agreement, min: 0.9}]\n"
    five = {"grade": np.random.default_rng(3).random((400, 5))}
    with pytest.raises(InputError, match=r"rules\[0\]: grade top5_agreement of 5 classes has no value: .* use top1_"):
        judge(tmp_path, five, five, policy)


@pytest.mark.parametrize("label", [SCORES.astype(str), SCORES[:-1], np.where(SCORES > 0.99, np.nan, SCORES)])
def test_a_label_that_is_none_fails_by_name(tmp_path: Path, label: Any) -> None:
    verdict = judge(tmp_path, {"score": SCORES, "label": label}, SCORES)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.defects[0].startswith("label: ")


MASKED = """
outputs: {states: {kind: tensor, mask: kept}}
rules: [{output: states, metric: relative_l2, max: 0.5}]
"""
STATES = np.random.default_rng(6).standard_normal((400, 6, 2))
KEPT = np.arange(6) < np.random.default_rng(7).integers(1, 7, (400, 1))


def test_what_a_mask_leaves_out_may_be_anything(tmp_path: Path) -> None:
    padded = np.where(KEPT[..., None], STATES, np.nan)
    reference = {"states": STATES, "kept": KEPT}
    assert judge(tmp_path, reference, {"states": padded}, MASKED).outcome is Outcome.PASS
    assert judge(tmp_path, reference, {"states": STATES * 1.8}, MASKED).outcome is Outcome.FAIL
    verdict = judge(tmp_path, {"states": STATES}, {"states": STATES}, MASKED)
    assert verdict.defects[0].startswith("states: its mask kept is missing")
    verdict = judge(tmp_path, reference, {"states": STATES, "kept": KEPT}, MASKED)
    assert verdict.defects[0].startswith("kept: the candidate has this output, which is not declared")


def test_rules_of_performance_are_left_to_a_conversion(tmp_path: Path) -> None:
    verdict = judge(tmp_path, SCORES, SCORES, POLICY + "performance: [{metric: speedup_vs_fp16, min: 1.0}]\n")
    assert (verdict.outcome, verdict.performance, verdict.speedups) == (Outcome.PASS, (), None)


def test_confidence_and_resamples_are_those_of_the_policy(tmp_path: Path) -> None:
    noisy = SCORES + np.random.default_rng(8).normal(0, 0.01, 400)
    highs = {c: judge(tmp_path, SCORES, noisy, f"{POLICY}confidence: {c}\n").rules[0].high for c in (0.9, 0.95, 0.99)}
    assert sorted(highs.values(), key=float) == list(highs.values())
    assert len(set(highs.values())) == 3


POLICIES = {
    "no outputs": ("rules: [{output: score, metric: mae, max: 1}]", "policy.yaml: outputs: missing; declare"),
    "no rules": ("outputs: {score: {kind: score}}", "policy.yaml: rules: there are none, so anything would pass"),
    "empty rules": ("outputs: {score: {kind: score}}\nrules: []", "policy.yaml: rules: there are none"),
    "unknown metric": (POLICY.replace("mae", "mea"), "policy.yaml: rules[0].metric: 'mea' is no metric; did you mean"),
    "unknown key": (POLICY + "min_sample: 3", "policy.yaml: 'min_sample' is no key here; did you mean 'min_samples'?"),
    "NaN limit": (POLICY.replace("0.01", ".nan"), "policy.yaml: rules[0].max: nan is no limit"),
    "repeated key": (POLICY + "rules: []", "policy.yaml: line 6: key 'rules' is given twice"),
    "a list": ("- a", "policy.yaml: must hold keys and values"),
}


@pytest.mark.parametrize(("policy", "words"), POLICIES.values(), ids=POLICIES)
def test_a_policy_that_could_bless_anything_is_refused(tmp_path: Path, policy: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        judge(tmp_path, SCORES, SCORES, policy)
    assert words in str(caught.value)


def missing(folder: Path) -> None:
    (folder / "candidate.npz").unlink()


def folder_and_file(folder: Path) -> None:
    (folder / "candidate.npz").unlink()
    (folder / "candidate.npz").mkdir()


def pickled(folder: Path) -> None:
    np.savez(folder / "candidate.npz", score=np.array([object()]))


def broken(folder: Path) -> None:
    (folder / "candidate.npz").write_bytes((folder / "candidate.npz").read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "candidate.npz: does not exist; name an .npz file or a folder"),
        (folder_and_file, "one is a file, the other a folder; give two of a kind"),
        (pickled, "candidate.npz: array 'score' cannot be read without pickle"),
        (broken, "candidate.npz: is no readable .npz file"),
    ],
)
def test_files_that_cannot_be_read_are_input_errors(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    judge(tmp_path, SCORES, SCORES)
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        judge_files(tmp_path / "reference.npz", tmp_path / "candidate.npz", tmp_path / "policy.yaml")
    assert words in str(caught.value)


def test_folders_must_hold_the_same_shards_and_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shards on one side only: 1.npz"):
        judge(tmp_path, [SCORES, SCORES], [SCORES])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no .npz file; an empty comparison is never a pass"):
        judge_files(tmp_path / "empty", tmp_path / "candidate", tmp_path / "policy.yaml")


def test_a_comparison_with_itself_is_refused(tmp_path: Path) -> None:
    judge(tmp_path, [SCORES], [SCORES])
    with pytest.raises(InputError, match=r"compared with itself"):
        judge_files(tmp_path / "reference", tmp_path / "reference", tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    ("output", "array", "words"),
    [
        ("{kind: tensor}", SCORES > 0.5, "the reference holds bool, true and false, .* write kind: labels"),
        ("{kind: tensor}", np.arange(400), "the reference holds int64, whole numbers, .* write kind: labels"),
        ("{kind: logits}", np.ones((400, 3, 2, 2)), "the reference has 4 axes .* write axis: 1 where"),
    ],
)
def test_a_reference_that_is_not_of_its_kind_is_bad_input(
    tmp_path: Path, output: str, array: np.ndarray[Any, Any], words: str
) -> None:
    policy = f"outputs: {{score: {output}}}\nrules:\n  - {{output: score, metric: cosine, min: 0.9}}\n"
    with pytest.raises(InputError, match=f"policy.yaml: outputs.score: {words}"):
        judge(tmp_path, array, array, policy)


@pytest.mark.parametrize("axis", [1, -1])
def test_classes_may_lie_on_any_axis_that_is_said(tmp_path: Path, axis: int) -> None:
    logits = np.random.default_rng(0).normal(size=(400, 3, 3, 8))
    moved = np.moveaxis(logits, -1, axis)
    np.savez(tmp_path / "reference.npz", score=moved)
    np.savez(tmp_path / "candidate.npz", score=moved)
    policy = f"outputs: {{score: {{kind: logits, axis: {axis}}}}}\nrules:\n"
    policy += "  - {output: score, metric: top1_agreement, min: 0.9}\n"
    policy += "  - {output: score, metric: top5_agreement, min: 0.9}\n"
    (tmp_path / "policy.yaml").write_text(policy)
    judged = judge_files(tmp_path / "reference.npz", tmp_path / "candidate.npz", tmp_path / "policy.yaml")
    assert judged.verdict.outcome is Outcome.PASS


def test_a_mask_of_sixty_four_by_sixty_four_is_one_population_and_says_so(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((320, 1, 64, 64)).astype(np.float32)
    verdict = judge(tmp_path, mask, mask, POLICY)
    assert verdict.outcome is Outcome.PASS
    assert all("on 320 samples (4,096 columns as one population)" in rule.sentence for rule in verdict.rules)
