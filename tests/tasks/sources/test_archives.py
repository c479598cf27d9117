from __future__ import annotations

import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tasks.errors import InputError
from tasks.model.model_directory import ModelDirectory, read_model_directory
from tasks.sources import SOURCES
from tasks.sources.pt2 import ExportedProgramFile
from tasks.sources.torchscript import TorchScriptFile
from tasks.stages.export import export_onnx
from tasks.torch_side.module_source import module_key
from tests.tasks.sources.checkpoints import loaded
from tests.tasks.tiny import WEIGHTS, make_features, score, write_model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess

FEATURES = torch.from_numpy(make_features(5))
TWO = {
    "inputs": {
        "second": {"dtype": "float32", "shape": ["batch", 4]},
        "features": {"dtype": "float32", "shape": ["batch", 4]},
    }
}


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(WEIGHTS.copy()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((features * self.weights).sum(1))


class Difference(nn.Module):
    def forward(self, features: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((features - 2 * second).sum(1))


class Named(Scorer):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": super().forward(features)}


def save(path: Path, module: nn.Module) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".ts":
        torch.jit.script(module.eval()).save(str(path))
        return
    names = ("features", "second")[: 2 if isinstance(module, Difference) else 1]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        module.eval(), (), dict.fromkeys(names, FEATURES), dynamic_shapes={name: {0: batch} for name in names}
    )
    torch.export.save(program, path)


def write(tmp_path: Path, kind: str, **changes: Any) -> ModelDirectory:
    return read_model_directory(write_model_folder(tmp_path / "model", source={kind: file_of(kind)}, **changes))


def file_of(kind: str) -> str:
    return "model.ts" if kind == "torchscript" else "model.pt2"


KINDS = ("pt2", "torchscript")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_what_the_saved_module_gives_and_is_exported(
    here: InProcess, tmp_path: Path, kind: str
) -> None:
    save(tmp_path / "model" / file_of(kind), Scorer())
    directory = write(tmp_path, kind)
    found = [type(source) for source in SOURCES if source.takes(directory.spec.source)]
    assert found == [{"pt2": ExportedProgramFile, "torchscript": TorchScriptFile}[kind]]
    assert np.allclose(loaded(directory, tmp_path / "out")(features=FEATURES).detach(), score(FEATURES.numpy()))
    exported = export_onnx(here, directory).result
    assert exported.recipe["exporter"] == ("torchscript" if kind == "torchscript" else "dynamo")
    assert max(exported.checks.values()) < 1e-5


def test_torchscript_with_its_inputs_in_another_order_is_exported_by_their_names(
    here: InProcess, tmp_path: Path
) -> None:
    save(tmp_path / "model" / "model.ts", Difference())
    exported = export_onnx(here, write(tmp_path, "torchscript", **TWO)).result
    assert max(exported.checks.values()) < 1e-5
    with here.store.scratch() as folder:
        graph = onnx.load(next(here.store.fetch(exported.onnx, folder / "onnx").glob("*.onnx"))).graph
    assert {value.name for value in graph.input} == {"features", "second"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_archive_has_another_key(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "model" / file_of(kind), Scorer())
    directory = write(tmp_path, kind)
    before = module_key(directory)
    other = Scorer()
    with torch.no_grad():
        other.weights[0] = 1
    file = tmp_path / "model" / file_of(kind)
    written = file.stat().st_mtime_ns
    save(file, other)
    os.utime(file, ns=(written + 1_000_000, written + 1_000_000))  # a clock of milliseconds may stand still
    assert module_key(directory) != before


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["m/data/constants/extra.pkl", "m/data/sample_inputs/model.pt"])
def test_an_archive_with_code_in_a_pickle_is_refused_before_it_is_loaded(
    tmp_path: Path, place: str, protocol: int
) -> None:
    path = tmp_path / "model" / "model.pt2"
    save(path, Scorer())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(place, pickle.dumps(Trap(tmp_path / "trapped"), protocol))
    with pytest.raises(InputError, match=r"source.pt2: model.pt2: m/data/\S+: is a pickle that imports \w*io.open"):
        module_key(write(tmp_path, "pt2"))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_with_compiled_code_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model" / file_of(kind)
    save(path, Scorer())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/data/aotinductor/model/wrapper.so", b"\x7fELF")
    with pytest.raises(
        InputError, match=rf"source.{kind}: .*: holds compiled code, m/data/aotinductor/model/wrapper.so"
    ):
        module_key(write(tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_torch_save_wrote_is_refused_with_the_command_for_safetensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model" / file_of(kind)
    path.parent.mkdir()
    torch.save(Scorer().state_dict(), path)
    with pytest.raises(InputError, match=rf"source.{kind}: .* is a pickle as torch.save writes it(?s:.*)save_file"):
        module_key(write(tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_half_an_archive_and_one_of_the_other_kind_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model" / file_of(kind)
    save(path, Scorer())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"source.{kind}: .* is no whole zip archive"):
        module_key(write(tmp_path, kind))
    (other,) = set(KINDS) - {kind}
    save(tmp_path / "model" / file_of(other), Scorer())
    (tmp_path / "model" / file_of(other)).replace(path)
    with pytest.raises(InputError, match=rf"source.{kind}: .* holds no (TorchScript|exported program)"):
        module_key(write(tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_an_archive_does_not_take_are_told_by_name(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "model" / file_of(kind), Scorer())
    with pytest.raises(InputError, match=rf"inputs.second: model.yaml: source.{kind} takes features; rename it"):
        loaded(write(tmp_path, kind, **TWO), tmp_path / "out")
    save(tmp_path / "model" / file_of(kind), Difference())
    with pytest.raises(InputError, match="also takes second; declare it"):
        loaded(write(tmp_path, kind), tmp_path / "out again")


def test_torchscript_that_returns_a_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model" / "model.ts"
    path.parent.mkdir()
    torch.jit.trace(Named(), FEATURES, strict=False).save(str(path))
    with pytest.raises(InputError, match="its forward returns a dict"):
        loaded(write(tmp_path, "torchscript"), tmp_path / "out")
