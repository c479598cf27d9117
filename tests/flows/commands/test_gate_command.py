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


def test_bad_input_ends_with_2_and_the_reason(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY + "  - {output: score, metric: mae, max: 0.01, by: level}\n")
    code, text, document = gate(*files)
    assert code == 2
    assert "policy.yaml: rules[2].by: the data have no slice.level; they have no slice at all" in text
    assert document["exit_code"] == 2
