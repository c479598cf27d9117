from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.model.model_directory import read_model_directory
from tasks.sources import interface
from tasks.torch_side.module_source import fetch_module, module_key, store_module, store_plugins

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext

    WriteModel = Callable[..., Path]


@pytest.fixture
def write(write_model: WriteModel) -> Callable[..., ModelDirectory]:
    """Write a model directory with a package of sources and weights, and read it."""

    def written(**changes: Any) -> ModelDirectory:
        folder = write_model(weights="weights.safetensors", **changes)
        (folder / "lib").mkdir(exist_ok=True)
        (folder / "lib" / "layers.py").write_text("LAYERS = 2\n")
        return read_model_directory(folder)

    return written


def test_a_module_is_found_again_where_there_is_no_model_directory(
    context: StageContext, write: Callable[..., ModelDirectory], tmp_path: Path
) -> None:
    directory = write()
    stored = store_module(context, directory).result
    directory.root.rename(tmp_path / "gone")
    request = fetch_module(context.store, stored, directory.spec, tmp_path / "laid out")
    assert request.spec == directory.spec
    assert request.weights
    assert Path(request.weights).read_bytes() == b"weights"
    found = {path.relative_to(request.folder).as_posix() for path in Path(request.folder).rglob("*") if path.is_file()}
    assert found == {"model.py", "lib/layers.py"}
    assert (Path(request.folder) / "lib" / "layers.py").read_text() == "LAYERS = 2\n"


def test_a_module_without_weights_has_none(context: StageContext, write_model: WriteModel, tmp_path: Path) -> None:
    directory = read_model_directory(write_model())
    stored = store_module(context, directory).result
    assert stored.weights is None
    assert fetch_module(context.store, stored, directory.spec, tmp_path / "laid out").weights is None


def test_neither_data_nor_policy_nor_model_yaml_is_stored_with_the_module(
    context: StageContext, write: Callable[..., ModelDirectory]
) -> None:
    stored = store_module(context, write()).result
    assert [file.path for file in stored.files.files] == [
        "source/lib/layers.py",
        "source/model.py",
        "weights.safetensors",
    ]


def test_the_same_module_is_stored_once_and_a_changed_one_anew(
    context: StageContext, write: Callable[..., ModelDirectory]
) -> None:
    directory = write()
    first, again = store_module(context, directory), store_module(context, directory)
    assert (first.cached, again.cached, again.result) == (False, True, first.result)
    (directory.root / "lib" / "layers.py").write_text("LAYERS = 3\n")
    changed = store_module(context, directory)
    assert not changed.cached
    assert changed.result.files.digest != first.result.files.digest
    (directory.root / "weights.safetensors").write_bytes(b"trained on")
    assert not store_module(context, directory).cached


def test_what_model_yaml_says_of_precisions_and_dims_is_no_part_of_the_module(
    context: StageContext, write: Callable[..., ModelDirectory]
) -> None:
    first = store_module(context, write()).result
    other = write(precisions=["fp16"], dims={"batch": {"min": 1, "opt": 2, "max": 4}})
    assert store_module(context, other).result == first


def test_a_file_that_changes_while_it_is_stored_is_refused(
    context: StageContext, write: Callable[..., ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write()
    copy = interface.copy_checked

    def change_and_copy(source: Path, target: Path, digest: str) -> bool:
        source.write_text("changed\n")
        return copy(source, target, digest)

    monkeypatch.setattr(interface, "copy_checked", change_and_copy)
    with pytest.raises(InputError, match=r"layers.py: changed while it was read; run the conversion again"):
        store_module(context, directory)


def test_a_module_whose_bytes_have_changed_in_the_store_is_refused(
    context: StageContext, write: Callable[..., ModelDirectory], tmp_path: Path
) -> None:
    directory = write()
    stored = store_module(context, directory).result
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and path.read_bytes() == b"weights":
            path.chmod(0o600)
            path.write_bytes(b"weighty")
    with pytest.raises(RefusedError):
        fetch_module(context.store, stored, directory.spec, tmp_path / "laid out")


def test_plugins_are_stored_under_their_names(context: StageContext, write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model()
    (folder / "plugins").mkdir()
    names = ("plugins/libone.so", "libtwo.so")
    for name in names:
        (folder / name).write_bytes(name.encode())
    directory = read_model_directory(write_model(build={"plugins": list(names)}))
    stored = store_plugins(context, directory)
    assert stored
    assert [file.path for file in stored.files] == ["libone.so", "libtwo.so"]
    laid_out = context.store.fetch(stored, tmp_path / "laid out")
    assert (laid_out / "libone.so").read_bytes() == b"plugins/libone.so"
    assert store_plugins(context, directory) == stored


def test_a_model_without_plugins_stores_none(context: StageContext, write_model: WriteModel) -> None:
    assert store_plugins(context, read_model_directory(write_model())) is None


def test_outputs_that_may_hold_names_are_a_part_of_the_key_and_others_leave_it_as_it_was(
    write: Callable[..., ModelDirectory],
) -> None:
    assert "names" not in module_key(write())
    outputs = {"score": {"kind": "labels"}, "map": {"kind": "segmentation"}, "other": {"kind": "tensor"}}
    assert module_key(write(outputs=outputs))["names"] == ["score", "map"]
