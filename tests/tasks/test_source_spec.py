from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError
from tasks.model.documents import parse
from tasks.model.model_directory import read_model_directory
from tasks.model.version import content_of_directory, version_of
from tasks.sources import SOURCES, outside_of
from tasks.specs import ModelSpec
from tests.tasks.tiny import changed, tiny_spec, write_model_folder

if TYPE_CHECKING:
    from pathlib import Path

MAPPINGS: list[dict[str, Any]] = [
    {"huggingface": "folder", "class": "AutoModel", "trust_remote_code": True},
    {"huggingface": "./folder"},
    {"onnx": "model.onnx"},
    {"pt2": "../model.pt2"},
    {"torchscript": "model.ts"},
    {"mlflow": "models:/scorer@champion"},
    {"mlflow": "runs:/0123/model"},
    {"python": "package.module:build"},
]


@pytest.mark.parametrize("source", MAPPINGS, ids=str)
def test_a_mapping_is_of_one_kind_and_travels_as_json(source: dict[str, Any]) -> None:
    spec = tiny_spec(source=source)
    assert len([kind for kind in SOURCES if kind.takes(spec.source)]) == 1
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert len(spec.model_dump(mode="json")["source"]) == len(source)


def test_a_text_is_dumped_as_it_was_and_nothing_else_enters_the_version(tmp_path: Path) -> None:
    directory = read_model_directory(write_model_folder(tmp_path / "model"))
    assert directory.spec.model_dump(mode="json")["source"] == "model.py:build"
    assert outside_of(directory) == {}
    content = content_of_directory(directory)
    assert version_of(content) == version_of(content_of_directory(directory, {}))
    assert version_of(content) != version_of(content_of_directory(directory, {"transformers": "5.0.0"}))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "source: names no kind; name one of huggingface, onnx, pt2, torchscript, mlflow, python"),
        ({"onnx": "a.onnx", "pt2": "b.pt2"}, "source: names onnx and pt2; name one of"),
        ({"onxx": "a.onnx"}, "source.onxx: unknown key; did you mean 'onnx'?"),
        ({"onnx": "a.onnx", "class": "AutoModel"}, "source: class belongs to huggingface, not onnx; remove it"),
        ({"pt2": "a", "trust_remote_code": True}, "source: trust_remote_code belongs to huggingface, not pt2"),
        ({"python": "module.py"}, "source.python: "),
        ({"onnx": ""}, "source.onnx: "),
        ("model.onnx", "source: "),
        (7, "source: "),
    ],
)
def test_a_mistake_is_told_with_its_key(source: object, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse(ModelSpec, changed(source=source), "model.yaml")
    assert f"model.yaml: {words}" in str(error.value)


@pytest.mark.parametrize(("kind", "what"), [("huggingface", "folder"), ("onnx", "file"), ("mlflow", "folder")])
def test_a_path_that_is_not_there_is_told_with_its_kind(tmp_path: Path, kind: str, what: str) -> None:
    with pytest.raises(InputError, match=rf"model.yaml: source.{kind}: nowhere is no {what} here; correct the path"):
        read_model_directory(write_model_folder(tmp_path / "model", source={kind: "nowhere"}))
