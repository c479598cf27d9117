from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError
from tasks.git.commit import Commit
from tasks.git.commit_models import content_at
from tasks.model.model_directory import read_model_directory
from tasks.model.version import ModelContent, content_of_directory, version_of
from tasks.sources import outside_of
from tests.tasks.git.repositories import Source, make_source, model_files

if TYPE_CHECKING:
    from pathlib import Path

MLMODEL = "flavors:\n  pytorch: {model_data: data}\n"
FILES: dict[str, str | bytes | None] = {
    "m/hf/config.json": '{"architectures": ["BertModel"]}',
    "m/hf/model.safetensors": b"weights",
    "m/model.onnx": b"graph",
    "m/model.pt2": b"program",
    "m/logged/MLmodel": MLMODEL,
    "m/logged/data/model.pth": b"pickle",
    "m/net/__init__.py": "",
}


def content_from_git(source: Source, commit: str) -> ModelContent:
    with closing(source.opened()) as repository:
        return content_at(Commit(repository, repository.tree(commit)), "m")


@pytest.mark.parametrize(
    "source",
    [
        {"huggingface": "hf"},
        {"onnx": "model.onnx"},
        {"pt2": "model.pt2"},
        {"mlflow": "logged"},
        {"python": "net:build"},
    ],
    ids=str,
)
def test_a_commit_has_the_version_of_its_checkout_whatever_its_source(tmp_path: Path, source: dict[str, Any]) -> None:
    repository = make_source(tmp_path / "source")
    commit = repository.commit(FILES | model_files("m", source=source))
    directory = read_model_directory(repository.root / "m")
    on_disk = version_of(content_of_directory(directory, outside_of(directory)))
    assert version_of(content_from_git(repository, commit)) == on_disk


@pytest.mark.parametrize("beside", ["../beside", "/"])
def test_a_commit_names_no_folder_of_the_host(tmp_path: Path, beside: str) -> None:
    repository = make_source(tmp_path / "source")
    commit = repository.commit(FILES | model_files("m", source={"huggingface": beside}))
    with pytest.raises(InputError, match=r"source(.huggingface)?: .*(leaves the model directory|is no folder here)"):
        content_from_git(repository, commit)
