from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.sources import SOURCES, outside_of, source_of
from tasks.sources.interface import SOURCE_FOLDER, ModuleRequest
from tasks.sources.python_package import PackageCallable
from tasks.torch_side.module_source import module_key
from tests.tasks.in_process import forgotten_imports
from tests.tasks.sources.checkpoints import loaded
from tests.tasks.tiny import write_model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory

CODE = "from torch import nn\n\n\ndef build():\n    return nn.Linear(4, {width})\n"


def write(tmp_path: Path, callable_name: str = "egscorer.nets:build", weights: str | None = None) -> ModelDirectory:
    return read_model_directory(
        write_model_folder(tmp_path / "model", source={"python": callable_name}, weights=weights)
    )


def write_package(folder: Path, width: int = 1) -> Path:
    package = folder / "egscorer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE.format(width=width))
    return package


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on this interpreter's path, outside of the model directory."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    write_package(tmp_path / "site")
    with forgotten_imports(tmp_path / "site"):
        yield tmp_path / "site"


def test_a_package_of_the_directory_is_laid_out_with_it_and_takes_weights(tmp_path: Path) -> None:
    write_package(tmp_path / "model")
    directory = write(tmp_path, weights="weights.safetensors")
    state = {"weight": torch.full((1, 4), 2.0), "bias": torch.zeros(1)}
    save_file(state, directory.root / "weights.safetensors")
    source = source_of(directory.spec.source)
    assert [type(kind) for kind in SOURCES if kind.takes(directory.spec.source)] == [PackageCallable]
    out = tmp_path / "out"
    source.lay_out(directory, out, source.key(directory))
    with forgotten_imports(out):
        module = source.load(
            ModuleRequest(folder=out / SOURCE_FOLDER, spec=directory.spec, weights=out / "weights.safetensors")
        )
    assert isinstance(module, nn.Linear)
    assert (module.weight == 2).all()
    assert outside_of(directory) == {}


def test_an_installed_package_is_part_of_the_key_and_of_the_version(installed: Path, tmp_path: Path) -> None:
    directory = write(tmp_path)
    before, outside = module_key(directory), outside_of(directory)
    assert set(outside) == {"package egscorer"}
    assert loaded(directory, tmp_path / "out").out_features == 1
    write_package(installed, width=2)
    assert module_key(directory) != before
    assert outside_of(directory) != outside


def test_an_installed_package_that_is_another_where_it_is_loaded_is_refused(installed: Path, tmp_path: Path) -> None:
    directory = write(tmp_path)
    source = source_of(directory.spec.source)
    source.lay_out(directory, tmp_path / "out", source.key(directory))
    write_package(installed, width=2)
    with (
        forgotten_imports(tmp_path / "out"),
        pytest.raises(InputError, match="package egscorer is another here than where the conversion was planned"),
    ):
        source.load(ModuleRequest(folder=tmp_path / "out" / SOURCE_FOLDER, spec=directory.spec, weights=None))


def test_a_package_is_found_without_being_imported(installed: Path, tmp_path: Path) -> None:
    (installed / "egscorer" / "__init__.py").write_text("raise SystemExit\n")
    module_key(write(tmp_path))
    assert "egscorer" not in sys.modules


def test_a_package_or_callable_that_is_not_there_is_told_by_name(installed: Path, tmp_path: Path) -> None:
    assert installed
    with pytest.raises(InputError, match="there is no package 'egnothing' in the model directory, nor installed"):
        module_key(write(tmp_path, "egnothing.nets:build"))
    with pytest.raises(InputError, match=r"egscorer.nets has no callable 'biuld'; did you mean 'build'\?"):
        loaded(write(tmp_path, "egscorer.nets:biuld"), tmp_path / "out")
    with pytest.raises(InputError, match=r"egscorer.lost raised ModuleNotFoundError: No module named 'egscorer.lost'"):
        loaded(write(tmp_path, "egscorer.lost:build"), tmp_path / "again")
