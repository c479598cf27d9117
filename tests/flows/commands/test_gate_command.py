"""`enginegate gate` as people and programs see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner

from flows.commands.cli import main

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
outputs: {score: {kind: score, range: [0, 1]}}
rules:
  - {output: score, metric: mae, max: 0.01}
  - {output: score, metric: pearson, min: 0.9}
"""
SCORES = np.random.default_rng(5).random(400)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The arguments of a gate that passes; change what lies in the folder."""
    np.savez(tmp_path / "reference.npz", score=SCORES)
    np.savez(tmp_path / "candidate.npz", score=SCORES + 0.001)
    (tmp_path / "policy.yaml").write_text(POLICY)
    names = ("reference.npz", "candidate.npz", "policy.yaml")
    reference, candidate, policy = (str(tmp_path / name) for name in names)
    return ["gate", reference, candidate, "--policy", policy]


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def gate(*arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code and people's text, and the document."""
    runner = CliRunner()
    shown, told = runner.invoke(main, arguments), runner.invoke(main, [*arguments, "--json"])
    assert shown.exit_code == told.exit_code
    return shown.exit_code, shown.output, json.loads(told.stdout, parse_constant=refuse)


def test_samples_every_rule_and_the_verdict_are_told(files: list[str]) -> None:
    code, text, document = gate(*files)
    lines = text.splitlines()
    assert code == 0
    assert [line[:11] for line in lines] == ["400 samples", "✓ score mae", "✓ score pea", "✓ verdict: "]
    mae = document["verdict"]["rules"][0]
    assert lines[1] == f"✓ {mae['sentence']}"
    assert mae["low"] <= mae["value"] <= mae["high"] <= 0.01
    assert (mae["n"], mae["needed"], document["comparison"]["confidence"]) == (400, None, 0.95)


def test_what_would_decide_is_told_where_nothing_is_decided(files: list[str], tmp_path: Path) -> None:
    error = np.where(np.arange(400) % 40 == 0, 0.36, 0.0)
    np.savez(tmp_path / "candidate.npz", score=SCORES + error)
    (tmp_path / "policy.yaml").write_text(POLICY.partition("  - {output: score, metric: pearson")[0])
    code, text, document = gate(*files)
    needed = document["verdict"]["rules"][0]["needed"]
    assert code == 4
    assert needed > 400
    assert "? score mae is 0.009" in text
    assert f"about {needed:,} would decide" in text


def test_a_defect_is_told_with_its_samples_and_no_nan_reaches_the_document(files: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "candidate.npz", score=np.where(np.arange(400) > 397, np.nan, SCORES))
    code, text, document = gate(*files)
    assert code == 3
    assert "✕ score: the candidate has NaN, Inf or a magnitude above 1e140 (2 samples: 398, 399)" in text
    assert document["verdict"]["rules"][0]["value"] is None


def test_rules_of_performance_are_said_to_be_judged_elsewhere(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY + "performance: [{metric: speedup_vs_fp16, min: 1.0}]\n")
    code, text, document = gate(*files)
    assert code == 0
    assert "- speedup_vs_fp16 is judged by `enginegate convert`, which measures it, not here." in text.splitlines()
    assert document["verdict"]["speedups"] is None


ATTACK = "\x1b[2J\nverdict: pass\u202e"


def test_names_and_values_of_the_data_steer_no_terminal(files: list[str], tmp_path: Path) -> None:
    output = f"score{ATTACK}"
    policy = {
        "outputs": {output: {"kind": "score", "range": [0, 1]}, f"idle{ATTACK}": {"kind": "score"}},
        "rules": [{"output": output, "metric": "mae", "max": 0.01, "by": f"level{ATTACK}"}],
    }
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    level = np.where(np.arange(400) < 200, f"a{ATTACK}", "b")
    np.savez(tmp_path / "reference.npz", **{output: SCORES, f"slice.level{ATTACK}": level})
    np.savez(tmp_path / "candidate.npz", **{output: SCORES + 0.02, f"more{ATTACK}": SCORES})
    code, text, document = gate(*files)
    assert code == 3
    assert all(line.isprintable() for line in text.splitlines())
    assert [line for line in text.splitlines() if line.startswith("verdict")] == []
    assert "at level\\x1b[2J\\nverdict: pass\\u202e=a\\x1b[2J\\nverdict: pass\\u202e is 0.02" in text
    said = [rule["sentence"] for rule in document["verdict"]["rules"]] + document["verdict"]["defects"]
    assert all(sentence.isprintable() for sentence in said)
    assert document["verdict"]["rules"][0]["group"] == f"a{ATTACK}", "what is data stays as it is"


def test_an_output_without_a_rule_and_the_share_that_a_mask_hides_are_told(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(
        POLICY.replace("score: {kind: score, range: [0, 1]}", "score: {kind: score}, states: {kind: tensor, mask: m}")
    )
    states, mask = np.random.default_rng(1).random((400, 4, 2)), np.tile([1, 0, 0, 0], (400, 1))
    np.savez(tmp_path / "reference.npz", score=SCORES, states=states, m=mask)
    np.savez(tmp_path / "candidate.npz", score=SCORES, states=states)
    code, text, document = gate(*files)
    assert code == 0
    assert "- states: its mask hides 75 % of it" in text.splitlines()
    assert "! the policy has no rule for states: measured, but not judged" in text.splitlines()
    assert document["comparison"]["hidden"] == [{"output": "states", "hidden": 1200, "positions": 1600}]


def test_how_many_samples_are_independent_is_told(files: list[str], tmp_path: Path) -> None:
    group = {"group": np.arange(400) // 4}
    np.savez(tmp_path / "reference.npz", score=SCORES, **group)
    code, text, document = gate(*files)
    assert (code, text.splitlines()[0]) == (4, "100 independent samples (400 rows), by `group`")
    assert "on 100 independent samples (400 rows), fewer than the 300 that decide" in text
    assert (document["verdict"]["rules"][0]["n"], document["verdict"]["rules"][0]["rows"]) == (100, 400)
    twice = np.repeat(SCORES[:200], 2)
    np.savez(tmp_path / "reference.npz", score=twice)
    np.savez(tmp_path / "candidate.npz", score=twice)
    code, text, _ = gate(*files)
    first = text.splitlines()[0]
    assert (code, first.partition(":")[0]) == (4, "200 independent samples (400 rows)")
    assert first.endswith("count once; if they are not one sample, add a `group`")


def test_a_rule_that_needs_labels_ends_with_2_where_there_are_none(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY + "  - {output: score, metric: mae_drop, max: 0.01}\n")
    code, text, _ = gate(*files)
    assert code == 2
    assert "policy.yaml: rules[2]: score mae_drop compares with labels, and the data have none; add an array" in text


def test_bad_input_ends_with_2_and_the_reason(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY + "  - {output: score, metric: mae, max: 0.01, by: level}\n")
    code, text, document = gate(*files)
    assert code == 2
    assert "policy.yaml: rules[2].by: the data have no slice.level; they have no slice at all" in text
    assert document["exit_code"] == 2


def test_a_policy_floor_holds_and_what_it_made_stricter_is_told(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, before, plain = gate(*files)
    assert code == 0
    (tmp_path / "floor.yaml").write_text("rules: [{metric: mae, max: 0.0001, of_range: true}]")
    monkeypatch.setenv("ENGINEGATE_POLICY_FLOOR", str(tmp_path / "floor.yaml"))
    code, text, document = gate(*files)
    assert code == 3
    assert text.startswith("! the policy floor holds for score mae max 0.01 → 0.0001\n")
    assert document["policy_floor"]["tightened"] == ["score mae max 0.01 → 0.0001"]
    (tmp_path / "floor.yaml").write_text("rules: [{metric: mae, max: 0.5}]")
    assert gate(*files)[:2] == (0, before), "a floor that a policy keeps to changes nothing"
    monkeypatch.delenv("ENGINEGATE_POLICY_FLOOR")
    assert gate(*files) == (0, before, plain)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{}", "floor.yaml: asks for nothing"),
        ("rules: [{metric: mea, max: 1}]", "did you mean 'mae'"),
    ],
)
def test_a_policy_floor_that_is_no_good_lets_nothing_through(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "floor.yaml").write_text(content)
    monkeypatch.setenv("ENGINEGATE_POLICY_FLOOR", str(tmp_path / "floor.yaml"))
    code, text, _ = gate(*files)
    assert code == 2
    assert "ENGINEGATE_POLICY_FLOOR: floor.yaml" in text
    assert words in text


def test_a_policy_floor_that_is_blank_is_not_taken_for_none(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEGATE_POLICY_FLOOR", " ")
    code, text, _ = gate(*files)
    assert code == 2
    assert "ENGINEGATE_POLICY_FLOOR: is blank" in text
