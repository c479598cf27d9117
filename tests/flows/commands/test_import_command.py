"""`enginegate import`: what it shows, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from flows.session import Session
from tests.tasks.in_process import InProcess

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x.sum(-1))
def build():
    return Net()
"""


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def context(session: Session, *_: object) -> InProcess:
        return InProcess(session.store)

    monkeypatch.setattr(Session, "stage_context", context)


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.py").write_text(SOURCE)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(400, 3)))
    return str(tmp_path / "net" / "model.py:build")


def test_it_shows_what_it_wrote_within_80_columns(source: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["import", source, "--data", str(tmp_path / "data.npz")])
    assert done.exit_code == 0, done.output
    assert "  output: {kind: score, range: [0, 1]}" in done.output
    assert "next: enginegate convert net-model" in done.output
    assert all(len(line) <= 80 for line in done.output.splitlines() if str(tmp_path) not in line)


def test_a_folder_that_was_asked_for_and_is_there_is_refused(source: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["import", source, "--data", str(tmp_path / "data.npz"), "--into", "net"])
    assert done.exit_code == 2
    assert "net: is there already; name another folder with --into, or remove it" in done.output


def test_json_has_the_text_the_files_and_the_notes(source: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["import", source, "--data", str(tmp_path / "data.npz"), "--json"])
    document = json.loads(done.stdout)
    assert (document["model"], document["validation_samples"], document["calibration_samples"]) == ("net", 320, 80)
    assert document["model_yaml"] == (tmp_path / "net-model" / "model.yaml").read_text()
    assert "model.yaml" in document["files"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--data and --synthetic: give one of them"),
        (["--data", "nothing.npz"], "nothing.npz: does not exist"),
        (["--data", "nothing.npz", "--name", "My Net"], "write my-net"),
        (["--data", "nothing.npz", "--column", "x"], "--column 'x': write NAME=AS"),
        (["--synthetic", "30"], "does not say the shapes of its inputs"),
    ],
)
def test_bad_input_ends_with_2_and_leaves_nothing(
    source: str, options: list[str], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(main, ["import", source, *options])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not [path for path in tmp_path.iterdir() if "net" in path.name and path.name != "net"]
