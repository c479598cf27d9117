from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from tasks.process.context import StageContext
from tasks.store.local import LocalStore
from tests.tasks.git.repositories import Source, make_source, model_files
from tests.tasks.shelf import Shelf

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["plan", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def run_json(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, ["plan", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A repository of two models, of which the second commit changed one."""
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    source = make_source(tmp_path / "repository")
    source.commit(model_files("m/a", name="a") | model_files("m/b", name="b"))
    source.commit({"m/a/model.py": "# other\n", "README.md": "x"})
    return source


def test_people_see_what_changed_and_why(source: Source) -> None:
    code, text = run(str(source.root), "--to", "main")
    assert code == 0
    assert "changed: model.py" in text
    assert "without effect: README.md" in text
    assert "1 of the models unchanged" in text
    assert " m/b " not in text


def test_json_tells_cells_versions_and_the_toolchain(source: Source) -> None:
    code, document = run_json(str(source.root), "--from", "main~1", "--to", "main")
    assert code == 0
    (model,) = document["models"]
    assert (model["model"], model["directory"], model["kind"]) == ("a", "m/a", "changed")
    assert all(cell["needed"] and cell["engine_id"].endswith(f"@{model['version']}") for cell in model["cells"])
    assert document["toolchain"]["digest"].startswith("sha256:")
    assert document["toolchain"]["releases"]["numpy"]
    assert (document["broken"], document["unchanged"], document["without_effect"]) == ([], 1, ["README.md"])


def test_engines_that_cannot_be_are_told(source: Source) -> None:
    source.commit(model_files("m/a", name="a", targets=["cpu", "t4"], precisions=["bf16"]))
    code, text = run(str(source.root), "--to", "main")
    assert code == 0
    assert "! m/a: no bf16 for t4: BF16 takes compute capability 8.0 or later" in " ".join(text.split())
    _, document = run_json(str(source.root), "--to", "main")
    (model,) = document["models"]
    assert [line[:14] for line in model["left_out"]] == ["no bf16 for t4"]


def test_of_zeros_and_of_a_first_commit_all_models_are_new(source: Source) -> None:
    for arguments in (("--from", "0" * 40, "--to", "main"), ("--to", "main~1")):
        document = run_json(str(source.root), *arguments)[1]
        assert [model["kind"] for model in document["models"]] == ["new", "new"]
        assert document["from"] is None


def test_a_broken_model_is_told_with_its_reason_and_is_no_error(source: Source) -> None:
    source.commit({"m/a/model.yaml": "name: \x1b[31mred\n", "m/b/model.py": "# new\n"})
    code, text = run(str(source.root), "--to", "main")
    assert code == 0
    assert "✕ m/a: model.yaml: cannot be read as YAML" in text
    assert "\x1b" not in text
    document = run_json(str(source.root), "--to", "main")[1]
    assert document["broken"] == ["m/a"]
    assert [model["needs_work"] for model in document["models"]] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "nowhere"), "has no commit 'nowhere'"),
        (("--to=--output=x",), "is no revision"),
        (("--from", "-x", "--to", "main"), "is no revision"),
        (("--to", " "), "is blank"),
    ],
)
def test_bad_revisions_are_bad_input(source: Source, arguments: tuple[str, ...], words: str) -> None:
    code, text = run(str(source.root), *arguments)
    assert code == 2
    assert words in text


def test_engines_that_are_held_need_no_work(source: Source, tmp_path: Path) -> None:
    precisions = ["fp32", "fp16"]
    source.commit(model_files("m/t", name="tiny", precisions=precisions))
    (model,) = run_json(str(source.root), "--to", "main")[1]["models"]
    assert model["needs_work"]
    shelf = Shelf(tmp_path / "home" / "registry", StageContext(LocalStore(tmp_path / "home" / "store")))
    shelf.register("fp32", version=model["version"])
    shelf.keep_out("fp16", version=model["version"])
    (model,) = run_json(str(source.root), "--to", "main")[1]["models"]
    assert not model["needs_work"]
    assert [(cell["precision"], cell["needed"], cell["reason"]) for cell in model["cells"]] == [
        ("fp32", False, "registered already"),
        ("fp16", False, "converted before: verdict fail"),
    ]
    assert "cpu fp32 (registered already)" in run(str(source.root), "--to", "main")[1]


def test_the_help_says_where_to_plan() -> None:
    assert "plan where conversions run" in " ".join(run("--help")[1].split())
