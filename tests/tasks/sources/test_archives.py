from __future__ import annotations

import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

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
OTHER = FEATURES / 3
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


class Times(nn.Module):
    def forward(self, features: torch.Tensor, second: torch.Tensor, times: int) -> torch.Tensor:
        return torch.sigmoid((features - times * second).sum(1))


class Listed(nn.Module):
    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.sigmoid((features[0] - 2 * features[1]).sum(1))


class Both(NamedTuple):
    doubled: torch.Tensor
    score: torch.Tensor


class AsDict(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"doubled": features * 2, "score": torch.sigmoid(features.sum(1))}


class AsNamedTuple(nn.Module):
    def forward(self, features: torch.Tensor) -> Both:
        return Both(features * 2, torch.sigmoid(features.sum(1)))


class Filling(nn.Module):
    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        found["score"] = torch.sigmoid(features.sum(1))
        return found


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
    for is_archive in (True, False):
        torch.save(Scorer().state_dict(), path, _use_new_zipfile_serialization=is_archive)
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


NAMED_OUTPUTS = {"outputs": {"score": {"kind": "score", "range": [0, 1]}, "doubled": {"kind": "tensor"}}}


@pytest.mark.parametrize("module", [AsDict, AsNamedTuple])
def test_outputs_of_torchscript_with_names_are_taken_by_them(here: InProcess, tmp_path: Path, module: type) -> None:
    save(tmp_path / "model" / "model.ts", module())
    exported = export_onnx(here, write(tmp_path, "torchscript", **NAMED_OUTPUTS)).result
    assert max(exported.checks.values()) < 1e-5
    with here.store.scratch() as folder:
        graph = onnx.load(next(here.store.fetch(exported.onnx, folder / "onnx").glob("*.onnx"))).graph
    assert [value.name for value in graph.output] == ["score", "doubled"], "the module returns another output first"


def test_torchscript_that_fills_a_dict_step_by_step_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model" / "model.ts", Filling())
    with pytest.raises(InputError, match=r"source.torchscript: its forward fills a dict step by step"):
        loaded(write(tmp_path, "torchscript"), tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((FEATURES, OTHER, 2), {}), ((FEATURES,), {"second": OTHER, "times": 2}), (([FEATURES, OTHER],), {})],
    ids=["by place", "by place and keyword", "in a list"],
)
def test_a_program_is_called_as_it_was_exported(
    here: InProcess, tmp_path: Path, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    shapes = [batch if isinstance(each, torch.Tensor) else None for each in (*arguments, *keywords.values())]
    names = ("features", "second") if len(shapes) > 1 else ("features_0", "features_1")
    program = torch.export.export(
        Times().eval() if len(shapes) > 1 else Listed().eval(), arguments, keywords,
        dynamic_shapes=dict(zip(("features", "second", "times"), shapes, strict=False)) if len(shapes) > 1
        else ([batch, batch],),
    )  # fmt: skip
    (tmp_path / "model").mkdir()
    torch.export.save(program, tmp_path / "model" / "model.pt2")
    inputs = {name: {"dtype": "float32", "shape": ["batch", 4]} for name in names}
    directory = write(tmp_path, "pt2", inputs=inputs)
    feeds = dict(zip(names, (FEATURES, OTHER), strict=True))
    module = loaded(directory, tmp_path / "out")
    assert torch.allclose(module(**feeds), torch.sigmoid((FEATURES - 2 * OTHER).sum(1)))
    assert max(export_onnx(here, directory).result.checks.values()) < 1e-5
