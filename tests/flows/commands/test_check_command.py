"""`enginegate check`, and that `convert` begins with it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.flows.projects import Project, write_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUBJECTS = {"files", "targets", "precisions", "data", "calibration", "module", "outputs", "policy"}


@pytest.fixture
def project(tmp_path: Path, begin_with_store: Callable[[Path], None]) -> Project:
    """A model that was converted before; nobody listens at its Prefect server."""
    project = write_project(tmp_path / "project", "http://127.0.0.1:9/api")
    begin_with_store(project.home)
    return project


def spoil(project: Project) -> None:
    """Make a mistake of each kind."""
    with np.load(project.model / "validation.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["features"] = arrays["features"].astype(np.float64)
    arrays["features"][7, 3] = np.nan
    np.savez(project.model / "validation.npz", **arrays)
    project.edit("model.py", "Linear(32, 2)", "Linear(32, 3)")
    shutil.rmtree(project.root / "calibration")


def test_a_good_model_ends_with_0_and_a_line_on_every_subject(project: Project) -> None:
    code, document, text = project.run("check", str(project.model))
    assert code == 0, text
    assert document["ok"] is True
    assert document["model"] == "tiny-scorer"
    assert {remark["subject"] for remark in document["remarks"]} == SUBJECTS
    assert all(line.startswith(("✓ ", "! ", "  ")) for line in text.splitlines()), text


def test_everything_that_stops_is_told_at_once_within_80_columns(project: Project) -> None:
    spoil(project)
    code, document, text = project.run("check", str(project.model))
    assert code == 2
    assert document["ok"] is False
    stops = [(remark["subject"], remark["text"]) for remark in document["remarks"] if remark["level"] == "stop"]
    for subject, words in (
        ("data", "features is float64, model.yaml says float32"),
        ("data", "features holds NaN or Inf in 1 samples (first: 7)"),
        ("module", "misshapen: layers.4.weight [2, 32]"),
        ("calibration", "calibration.set: ../calibration is no folder"),
    ):
        assert any(of == subject and words in said for of, said in stops), (subject, stops)
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "✕ calibration" in text
    assert text.rstrip().endswith("things to correct before a conversion")


def test_a_conversion_ends_with_the_same_before_any_long_work(
    tmp_path: Path, prefect_url: str, begin_with_store: Callable[[Path], None]
) -> None:
    project = write_project(tmp_path / "project", prefect_url)
    begin_with_store(project.home)
    spoil(project)
    code, document, text = project.convert()
    assert code == 2, text
    assert document["error"].startswith("4 things stop this conversion:")
    for words in ("says float32", "holds NaN", "layers.4.weight", "layers.4.bias", "calibration.set"):
        assert words in document["error"]
    assert "✓ export" not in text
    assert "Traceback" not in text


def test_what_a_target_cannot_do_is_named_and_stops_nothing(project: Project) -> None:
    project.edit("model.yaml", "targets: [cpu]", "targets: [cpu, t4]")
    project.edit("model.yaml", "precisions: [", "precisions: [bf16, fp8, ")
    code, document, _ = project.run("check", str(project.model), "--precision", "fp8")
    remarks = [(remark["level"], remark["text"][:13]) for remark in document["remarks"]]
    assert ("warning", "no fp8 for t4") in remarks
    assert code == 0, document["remarks"]


def test_bf16_of_weights_that_are_float32_stops_with_the_remedy(project: Project) -> None:
    project.edit("model.yaml", "precisions: [", "precisions: [bf16, ")
    code, document, _ = project.run("check", str(project.model), "--precision", "bf16")
    assert code == 2
    (stop,) = [remark["text"] for remark in document["remarks"] if remark["level"] == "stop"]
    assert "bf16: is for models that were trained in it, and 0 % of the weights are bfloat16; write fp16" in stop


def test_what_only_spoils_a_conversion_does_not_change_the_code(project: Project) -> None:
    project.edit("policy.yaml", "max: 0.05", "max: 0.0001")
    code, document, text = project.run("check", str(project.model))
    assert code == 0
    assert any("even an engine that equals PyTorch" in one["text"] for one in document["remarks"]), text


def test_a_model_yaml_that_cannot_be_read_is_all_there_is_to_say(project: Project) -> None:
    project.edit("model.yaml", "precisions:", "precision:")
    code, document, _ = project.run("check", str(project.model))
    assert code == 2
    assert {remark["subject"] for remark in document["remarks"]} == {"model.yaml"}
    assert len(document["remarks"]) == 2


def test_only_what_is_asked_for_is_looked_at(project: Project) -> None:
    shutil.rmtree(project.root / "calibration")
    assert project.run("check", str(project.model))[0] == 2
    assert project.run("check", str(project.model), "--precision", "fp32")[0] == 0
