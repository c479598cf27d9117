"""`enginegate calibration explain`: the ranking, the figure, and what it refuses."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from flows.conversion.conversion_plan import version_of
from tasks.model.model_directory import read_model_directory
from tests.flows.projects import Project
from tests.tasks.models.huge_channels_directory import BROKEN, LAYERS, write_directory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The model with one layer that INT8 destroys; no server of any kind."""
    root = tmp_path_factory.mktemp("explained")
    write_directory(root, validation=300)
    return Project(root, {"ENGINEGATE_HOME": str(root / "home"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})


def engine_id(model: Path, precision: str = "int8") -> str:
    return f"huge-channels-cpu-{precision}@{version_of(read_model_directory(model))}"


def explain(project: Project, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return project.run("calibration", "explain", *arguments)


def test_the_layer_that_int8_destroys_is_first_in_the_document_the_table_and_the_figure(
    project: Project, tmp_path: Path
) -> None:
    figure = tmp_path / "ranking.png"
    arguments = (engine_id(project.model), "--model", str(project.model), "--figure", str(figure))
    code, document, text = explain(project, *arguments)
    assert code == 0, text
    losses = [layer["loss"] for layer in document["layers"]]
    assert len(losses) == LAYERS
    assert losses[0] > 1 > losses[1]
    assert losses == sorted(losses, reverse=True)
    first = document["layers"][0]["node"]
    assert all(part in first for part in BROKEN.split("."))
    heading = next(number for number, line in enumerate(text.splitlines()) if "worst rule" in line)
    assert text.splitlines()[heading + 1].split()[:2] == ["1", first]
    assert f"drawn to {figure}" in text
    assert np.ptp(imread(figure)[..., :3]) > 0.5
    again = explain(project, *arguments)
    assert again[1] == document
    assert "sensitivity " in again[2]
    assert "(cached)" in again[2]


def test_the_model_is_found_below_the_current_folder_by_its_name(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project.root / "model", tmp_path / "models" / "one")
    shutil.copytree(project.root / "calibration", tmp_path / "models" / "calibration")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.yaml").write_text("- no mapping")
    monkeypatch.chdir(tmp_path)
    code, document, text = explain(project, engine_id(project.model))
    assert code == 0, text
    assert len(document["layers"]) == LAYERS
    shutil.copytree(tmp_path / "models" / "one", tmp_path / "models" / "two")
    code, document, _ = explain(project, engine_id(project.model))
    assert code == 2
    assert "2 model directories are called huge-channels here and below; name it with --model" in document["error"]


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("huge-channels-cpu-fp16@0123456789ab", "is fp16; layers are ranked, and left out, of int8 engines alone"),
        ("huge-channels-cpu-int8@0123456789ab", "now; go back to the files that the engine was made of"),
        ("huge-channels-a100-int8@0123456789ab", "makes huge-channels-cpu-int8@"),
        ("essay-scorer-cpu-int8@0123456789ab", "makes huge-channels-cpu-int8@"),
        ("huge-channels", "is no engine id"),
    ],
)
def test_what_the_directory_does_not_make_is_refused(project: Project, engine: str, words: str) -> None:
    code, document, text = explain(project, engine, "--model", str(project.model))
    assert code == 2
    assert words in document["error"]
    assert "--only" not in document["error"]
    assert "✓" not in text, "it is said before any work"


def test_a_model_that_is_nowhere_is_asked_for(project: Project, tmp_path: Path) -> None:
    code, document, _ = explain(project, "other-cpu-int8@0123456789ab")
    assert code == 2
    assert document["error"].endswith("no model directory is called other here and below; name it with --model")
    code, document, _ = explain(project, engine_id(project.model), "--model", str(tmp_path))
    assert code == 2
    assert "has no model.yaml" in document["error"]


@pytest.mark.parametrize("figure", [".", "nowhere/ranking.png"])
def test_a_figure_that_has_no_place_is_refused_before_the_work(project: Project, figure: str) -> None:
    arguments = (engine_id(project.model), "--model", str(project.model), "--figure", figure)
    code, document, text = explain(project, *arguments)
    assert code == 2
    assert document["error"].startswith(f"--figure {figure}: ")
    assert "✓" not in text
