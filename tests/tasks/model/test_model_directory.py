from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory, require_calibration
from tasks.specs import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteModel = Callable[..., Path]


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_model_directory(folder)
    return str(caught.value)


def test_a_good_directory_is_read_whole(write_model: WriteModel) -> None:
    folder = write_model(
        weights="weights.safetensors",
        precisions=["fp16", "int8"],
        calibration={"set": "../calibration", "method": "max"},
    )
    found = read_model_directory(folder)
    assert found.weights == folder / "weights.safetensors"
    assert [path.name for path in found.validation] == ["validation.npz"]
    assert found.calibration is not None
    assert [file.path for file in found.calibration.manifest.files] == ["set.npz"]
    assert found.policy(Precision.INT8).rules != found.policy(Precision.FP16).rules


def test_a_relative_path_to_the_directory_gives_the_same(
    write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model()
    monkeypatch.chdir(folder.parent)
    assert read_model_directory(folder.relative_to(folder.parent)) == read_model_directory(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weigths": "x"}, "model.yaml: weigths: unknown key; did you mean 'weights'?"),
        ({"colour": "red"}, "model.yaml: colour: unknown key; known keys: name, source, weights"),
        ({"dims": {"batch": {"min": 1, "opt": 2, "maxx": 3}}}, "dims.batch.maxx: unknown key; did you mean 'max'?"),
        (
            {"validation": {"data": "validation.npz", "polcy": "x"}},
            "validation.polcy: unknown key; did you mean 'policy'",
        ),
        (
            {"inputs": {"features": {"dtpe": "float32", "shape": ["batch"]}}},
            "inputs.features.dtpe: unknown key; did you",
        ),
        ({"outputs": {"score": {"knd": "score"}}}, "outputs.score.knd: unknown key; did you mean 'kind'?"),
        ({"export": {"opsett": 20}}, "export.opsett: unknown key; did you mean 'opset'?"),
        ({"calibration": {"set": "x", "metod": "max"}}, "calibration.metod: unknown key; did you mean 'method'?"),
        ({"source": None}, "model.yaml: source: missing; add it"),
        (
            {"dims": {"batch": {"min": 4, "opt": 2, "max": 8}}},
            "dims.batch: min 4 is above opt 2; raise opt or lower min",
        ),
        ({"dims": {}}, "model.yaml: inputs.features.shape: dimension 'batch' is not declared; add it under dims"),
    ],
)
def test_a_mistake_in_model_yaml_is_one_line_with_the_remedy(
    write_model: WriteModel, changes: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(write_model(**changes))


def test_every_mistake_is_told_at_once(write_model: WriteModel) -> None:
    lines = refusal(write_model(nmae="x", name=None, targets=[])).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("model.yaml: ") for line in lines)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights.pkl", "weights.safetensors.pt"])
def test_pickled_weights_are_refused_with_the_way_out(write_model: WriteModel, name: str) -> None:
    folder = write_model(weights=name)
    (folder / name).write_bytes(b"x")
    text = refusal(folder)
    assert f"model.yaml: weights: {name}" in text
    assert "pickle" in text
    assert "safetensors.torch.save_file" in text


ESCAPES: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
    ("weights", lambda name: {"weights": f"{name}.safetensors"}),
    ("source", lambda name: {"source": f"{name}.py:build"}),
    ("build.plugins", lambda name: {"build": {"plugins": [f"{name}.so"]}}),
    ("build.onnxruntime_plugins", lambda name: {"build": {"onnxruntime_plugins": [f"{name}.so"]}}),
    ("validation.data", lambda name: {"validation": {"data": f"{name}.npz"}}),
    ("validation.policy", lambda name: {"validation": {"data": "validation.npz", "policy": f"{name}.yaml"}}),
]


@pytest.mark.parametrize(("field", "declare"), ESCAPES, ids=[field for field, _ in ESCAPES])
@pytest.mark.parametrize("way", ["dots", "absolute", "link", "folder link"])
def test_a_path_that_leaves_the_directory_is_refused(
    write_model: WriteModel, field: str, declare: Callable[[str], dict[str, Any]], way: str
) -> None:
    outside = write_model().parent / "outside"
    outside.mkdir()
    name = {"dots": "../outside/file", "absolute": str(outside / "file"), "link": "file", "folder link": "in/file"}[way]
    folder = write_model(**declare(name))
    for suffix in (".safetensors", ".py", ".npz", ".yaml", ".so"):
        (outside / f"file{suffix}").write_bytes(b"x")
        if way == "link":
            (folder / f"file{suffix}").symlink_to(outside / f"file{suffix}")
    if way == "folder link":
        (folder / "in").symlink_to(outside)
    text = refusal(folder)
    assert text.startswith(f"model.yaml: {field}: ")
    assert "leaves the model directory; copy the file into it" in text


@pytest.mark.parametrize(("field", "declare"), ESCAPES, ids=[field for field, _ in ESCAPES])
@pytest.mark.parametrize("name", ["missing", "a\0b", "loop", "n" * 300], ids=["missing", "nul", "loop", "long"])
def test_a_path_that_leads_nowhere_is_named(
    write_model: WriteModel, field: str, declare: Callable[[str], dict[str, Any]], name: str
) -> None:
    folder = write_model(**declare(name))
    for suffix in (".safetensors", ".py", ".npz", ".yaml", ".so"):
        (folder / f"loop{suffix}").symlink_to(folder / f"loop{suffix}")
    text = refusal(folder)
    assert text.startswith(f"model.yaml: {field}: ")
    assert "correct" in text


def test_an_absolute_path_is_refused_even_into_the_directory(write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model(validation={"data": str(tmp_path / "model" / "validation.npz")})
    assert (folder / "validation.npz").exists()
    assert "leaves the model directory" in refusal(folder)


def test_a_folder_is_no_weights_file(write_model: WriteModel) -> None:
    folder = write_model(weights="sub.safetensors")
    (folder / "sub.safetensors").mkdir()
    assert "sub.safetensors is no file" in refusal(folder)


def test_validation_data_may_be_a_folder_of_shards_in_order(write_model: WriteModel) -> None:
    folder = write_model(validation={"data": "shards"})
    (folder / "shards").mkdir()
    for name in ("b.npz", "a.npz", "notes.txt"):
        (folder / "shards" / name).write_bytes(b"x")
    assert [path.name for path in read_model_directory(folder).validation] == ["a.npz", "b.npz"]


def test_a_shard_that_links_out_of_its_folder_is_refused(write_model: WriteModel) -> None:
    folder = write_model(validation={"data": "shards"})
    (folder / "shards").mkdir()
    (folder / "shards" / "a.npz").symlink_to(folder / "validation.npz")
    assert "validation.data: a.npz is a link out of its folder" in refusal(folder)


@pytest.mark.parametrize("data", ["empty", "notes.txt"])
def test_data_without_npz_is_refused(write_model: WriteModel, data: str) -> None:
    folder = write_model(validation={"data": data})
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    assert f"validation.data: {data} holds no .npz file; save arrays with numpy.savez" in refusal(folder)


@pytest.mark.parametrize(
    ("set_", "words"), [("model.py", "is no folder"), ("../data", "has no manifest.yaml"), ("../x", "no: unknown key")]
)
def test_a_calibration_set_that_is_none_is_named(write_model: WriteModel, set_: str, words: str) -> None:
    folder = write_model(calibration={"set": set_})
    for name, file in (("data", "set.npz"), ("x", "manifest.yaml")):
        (folder.parent / name).mkdir()
        (folder.parent / name / file).write_text("no: such one")
    text = refusal(folder)
    assert "model.yaml: calibration.set: " in text
    assert words in text


@pytest.mark.parametrize("set_", ["../nowhere", "../empty"])
def test_a_calibration_set_that_is_yet_to_be_drawn_is_missed_by_int8_alone(write_model: WriteModel, set_: str) -> None:
    folder = write_model(calibration={"set": set_})
    (folder.parent / "empty").mkdir()
    found = read_model_directory(folder)
    assert found.calibration is None
    with pytest.raises(InputError, match=r"calibration.set: .* is no folder with .* int8 needs; .*calibration draw"):
        require_calibration(found)


def test_all_mistakes_of_a_directory_are_told_at_once(write_model: WriteModel) -> None:
    folder = write_model(weights="model.bin", calibration={"set": "model.py"}, build={"plugins": ["nowhere.so"]})
    (folder / "validation.npz").unlink()
    (folder / "model.py").unlink()
    told = refusal(folder).splitlines()
    assert [line.split(": ")[1] for line in told] == ["source", "weights", "validation.data", "build.plugins"]


def test_a_bad_policy_is_refused_before_any_work(write_model: WriteModel) -> None:
    folder = write_model(validation={"data": "validation.npz", "policy": "policy.yaml"})
    (folder / "policy.yaml").write_text("rules: [{output: scor, metric: mae, max: 0.1}]")
    assert "policy.yaml: rules[0].output: 'scor' is no output; did you mean 'score'?" in refusal(folder)
    (folder / "policy.yaml").write_text("min_samples: 3")
    assert "policy.yaml: rules: there are none" in refusal(folder)


def test_the_default_policy_judges_the_slices_of_the_data(write_model: WriteModel) -> None:
    found = read_model_directory(write_model())
    assert {rule.by for rule in found.policy(Precision.FP32).rules} == {None}
    assert {rule.by for rule in found.policy(Precision.FP32, ("level", "noise")).rules} == {None, "level", "noise"}


def test_a_policy_of_a_slice_that_the_data_lack_is_refused(write_model: WriteModel) -> None:
    folder = write_model(validation={"data": "validation.npz", "policy": "policy.yaml"})
    (folder / "policy.yaml").write_text("rules: [{output: score, metric: mae, max: 0.1, by: levle}]")
    found = read_model_directory(folder)
    with pytest.raises(
        InputError, match=r"policy.yaml: rules\[0\].by: the data have no slice.levle; did you mean 'level'"
    ):
        found.policy(Precision.FP32, ("level", "noise"))
    with pytest.raises(InputError, match=r"the data have no slice.levle; they have no slice at all"):
        found.policy(Precision.FP32, ())


def test_a_folder_without_model_yaml_is_told_what_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        assert "has no model.yaml; name a model directory" in refusal(path)


def test_source_files_are_all_that_the_module_could_read_and_no_more(write_model: WriteModel) -> None:
    folder = write_model(
        weights="weights.safetensors",
        precisions=["int8"],
        calibration={"set": "calibration"},
        validation={"data": "validation.npz", "policy": "policy.yaml"},
    )
    (folder / "policy.yaml").write_text("rules: [{output: score, metric: mae, max: 0.1}]")
    for path in (".git/config", ".hidden.py", "__pycache__/model.pyc", "lib/layers.py", "vocabulary.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")
    shutil.copytree(folder.parent / "calibration", folder / "calibration")
    assert sorted(read_model_directory(folder).source_files()) == ["lib/layers.py", "model.py", "vocabulary.json"]


@pytest.mark.parametrize("field", ["plugins", "onnxruntime_plugins"])
def test_plugins_are_found_and_are_no_source(write_model: WriteModel, field: str) -> None:
    folder = write_model(build={field: ["lib/libone.so", "libtwo.so"]})
    (folder / "lib").mkdir()
    for name in ("lib/libone.so", "libtwo.so", "libother.so"):
        (folder / name).write_bytes(b"code")
    found = read_model_directory(folder)
    libraries = {"plugins": found.plugins, "onnxruntime_plugins": found.onnxruntime_plugins}
    assert libraries.pop(field) == (folder / "lib" / "libone.so", folder / "libtwo.so")
    assert list(libraries.values()) == [()]
    assert sorted(found.source_files()) == ["libother.so", "model.py"]


@pytest.mark.parametrize("names", [["a/lib.so", "b/lib.so"], ["a/lib.so", "a/lib.so"]], ids=["two", "one twice"])
@pytest.mark.parametrize("field", ["plugins", "onnxruntime_plugins"])
def test_two_plugins_of_one_name_are_refused(write_model: WriteModel, names: list[str], field: str) -> None:
    folder = write_model(build={field: names})
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"code")
    assert refusal(folder) == (f"model.yaml: build.{field}: lib.so, lib.so: two have the same name; rename one")


def test_a_folder_is_no_plugin(write_model: WriteModel) -> None:
    folder = write_model(build={"plugins": ["libs"]})
    (folder / "libs").mkdir()
    assert "model.yaml: build.plugins: libs is no file" in refusal(folder)


def test_any_file_that_links_out_of_the_directory_is_refused(write_model: WriteModel) -> None:
    folder = write_model()
    (folder.parent / "secret.txt").write_text("x")
    (folder / "secret.txt").symlink_to(folder.parent / "secret.txt")
    with pytest.raises(InputError, match=r"source: secret.txt leaves the model directory"):
        read_model_directory(folder).source_files()


def test_a_link_within_the_directory_and_a_socket_are_no_harm(write_model: WriteModel) -> None:
    folder = write_model()
    (folder / "copy.py").symlink_to("model.py")
    (folder / "empty").mkdir()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("editor.sock")
        assert sorted(read_model_directory(folder).source_files()) == ["copy.py", "model.py"]
