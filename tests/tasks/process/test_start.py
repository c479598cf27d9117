from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.process.child import Child, ChildFailedError
from tests.tasks.child_entries import Answer, Ask

ENTRIES = "tests.tasks.process.user_entries"
REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ("tasks", "validation", "flows")


@pytest.fixture(params=["this", "another"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The interpreter of the child: this one, or one that was named."""
    if request.param == "this":
        return None
    path = tmp_path / "other-python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o700)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def ask(entry: str, folder: Path, text: str, python: Path | None = None) -> str:
    with Child(f"{ENTRIES}:{entry}", folder, python=python) as child:
        return child.ask(Ask(text=text), Answer, time_limit_s=60).text


def write(model: Path, name: str, *, as_package: bool) -> None:
    path = model / name / "__init__.py" if as_package else model / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"OWNER = 'the model, {name}'\n")


@pytest.mark.parametrize("as_package", [False, True], ids=["module", "package"])
@pytest.mark.parametrize("name", NAMES)
def test_a_models_code_imports_its_own_module_whose_name_the_product_has_too(
    tmp_path: Path, model: Path, python: Path | None, name: str, as_package: bool
) -> None:
    write(model, name, as_package=as_package)
    assert ask("import_from", tmp_path, f"{model} {name}", python) == f"the model, {name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_models_code_does_not_find_the_product(
    tmp_path: Path, model: Path, python: Path | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # installed, for whoever looks for it there
    with pytest.raises(ChildFailedError, match=f"raised ModuleNotFoundError: No module named '{name}'"):
        ask("import_from", tmp_path, f"{model} {name}", python)


def test_a_module_of_the_process_room_is_none_that_a_models_code_finds(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ChildFailedError, match="raised ModuleNotFoundError: No module named 'kernel'"):
        ask("import_from", tmp_path, f"{model} kernel")


def test_what_the_product_imports_late_is_the_products(tmp_path: Path, model: Path, python: Path | None) -> None:
    for name in ("tasks", "validation"):
        write(model, name, as_package=True)
    for path in ("tasks/samples", "validation", "tasks/store"):
        (model / path).mkdir(exist_ok=True)
    for path in ("tasks/samples/npz.py", "validation/units.py", "tasks/store/digests.py"):
        (model / path).write_text("raise SystemExit('the model has replaced it')\n")
    found = ask("import_late", tmp_path, str(model), python)
    late = " ".join(f"{REPOSITORY}/{path}" for path in ("tasks/samples/npz.py", "validation/units.py"))
    assert found == f"the model, tasks the model, validation {late} {REPOSITORY}/tasks/store/digests.py"


def test_what_the_product_pickles_is_found_again(tmp_path: Path) -> None:
    assert ask("pickle_twice", tmp_path, "a text") == "a text"
