from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tasks.errors import InputError, StageError
from tasks.torch_side import torch_python
from tasks.torch_side.torch_python import PACKAGES, torch_versions

REPOSITORY = Path(__file__).parents[3]
ALL = {
    "python": "3.12",
    "torch": "2.9.0",
    "safetensors": "0.6",
    "numpy": "2.1",
    "pydantic": "2.11",
    "pyyaml": "6.0",
}


def write_python(folder: Path, commands: str) -> Path:
    """An interpreter that does nothing but run these commands of the shell."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o700)
    return path


def answering(folder: Path, found: dict[str, str]) -> Path:
    return write_python(folder, f"echo '{json.dumps(found)}'")


def without(*packages: str) -> dict[str, str]:
    return {name: version for name, version in ALL.items() if name not in packages}


def test_this_interpreter_is_asked_where_no_other_is_named() -> None:
    found = torch_versions(None)
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        assert found is None
    else:
        assert found
        assert found["torch"] == version
        assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
        assert found.keys() == ALL.keys()


def test_a_named_interpreter_answers_for_itself(tmp_path: Path) -> None:
    assert torch_versions(answering(tmp_path, ALL)) == ALL


def test_an_interpreter_may_lack_torch_unless_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(answering(tmp_path, without("torch"))))
    assert torch_versions(None) is None


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        (["torch"], "has no torch; install"),
        (["torch", "pydantic"], "has no torch, pydantic; install"),
        (["safetensors", "numpy"], "has no safetensors, numpy; install"),
        (["pyyaml", "numpy"], "has no numpy, pyyaml; install"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_named_interpreter_that_cannot_run_the_module_is_refused(
    tmp_path: Path, lacks: list[str], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        torch_versions(answering(tmp_path, without(*lacks)))
    assert str(caught.value).startswith("ENGINEGATE_TORCH_PYTHON: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("commands", ["echo hello", "exit 3", "kill -9 $$", "sleep 60"])
def test_what_does_not_answer_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str) -> None:
    monkeypatch.setattr(torch_python, "TIME_LIMIT_S", 0.3)
    with pytest.raises(InputError, match=r"ENGINEGATE_TORCH_PYTHON: .*/python is no Python that answers"):
        torch_versions(write_python(tmp_path, commands))


def test_this_interpreter_is_not_called_by_a_variable_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(write_python(tmp_path, "exit 3")))
    with pytest.raises(StageError, match=r"^this Python, .*/python, does not tell its packages \(.* 3\.\); install"):
        torch_versions(None)


IMPORTS = """
import builtins, sys
found, real = set(), builtins.__import__
def watched(name, globals=None, *rest, **more):
    if (globals or {}).get("__name__", "").partition(".")[0] in {"tasks", "validation"}:
        found.add(name.partition(".")[0])
    return real(name, globals, *rest, **more)
builtins.__import__ = watched
import tasks.process.child, tasks.sources.state_dict, tasks.stages.benchmark, tasks.torch_side.torch_timing
print(*found - set(sys.stdlib_module_names) - {"tasks", "validation"})
"""


@pytest.mark.skipif(torch_versions(None) is None, reason="there is no torch here")
def test_what_is_asked_for_is_what_the_child_that_runs_the_module_imports() -> None:
    said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert sorted(said.stdout.replace("yaml", "pyyaml").split()) == sorted(PACKAGES)


@pytest.mark.parametrize("name", ["nowhere", "folder", "text"])
def test_a_path_that_is_no_program_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("x")
    with pytest.raises(InputError, match=f"ENGINEGATE_TORCH_PYTHON: .*{name} is no Python that answers"):
        torch_versions(tmp_path / name)


def test_another_interpreter_is_not_shown_this_ones_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of that interpreter will not see them either; see `tasks.process.child`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = write_python(tmp_path, f"test -z \"$PYTHONPATH\" && echo '{json.dumps(ALL)}'")
    assert torch_versions(other) == ALL


def test_this_interpreter_is_asked_with_the_packages_that_it_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = write_python(tmp_path, f"test -n \"$PYTHONPATH\" && echo '{json.dumps(ALL)}'")
    monkeypatch.setattr(sys, "executable", str(own))
    assert torch_versions(None) == ALL


def test_no_code_of_the_current_folder_is_run(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    Path("platform.py").write_text("raise SystemExit('run')\n")
    assert torch_versions(None) is None or torch_versions(None)
