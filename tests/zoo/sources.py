"""Writes a model of the zoo as people have theirs: a checkpoint, an archive, an ONNX file, one of MLflow, a package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from tests.zoo.table import Animal

SMALL_SHARD = "60KB"
TWO = 2
"""Samples in a traced batch: not 1, which the exporter would take for fixed."""


def write_source(animal: Animal, folder: Path, module: nn.Module) -> dict[str, str]:
    """Write the module below the model directory; returns model.yaml's `source`."""
    return WRITERS[animal.source](animal, folder, module)


def _checkpoint(_animal: Animal, folder: Path, module: Any) -> dict[str, str]:
    module.save_pretrained(folder / "checkpoint")
    return {"huggingface": "checkpoint"}


def _shards(_animal: Animal, folder: Path, module: Any) -> dict[str, str]:
    module.save_pretrained(folder / "checkpoint", max_shard_size=SMALL_SHARD)
    assert (folder / "checkpoint" / "model.safetensors.index.json").is_file()
    return {"huggingface": "checkpoint"}


def _traced(animal: Animal) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, Any]]]:
    """Inputs by name, and which of their axes are dynamic."""
    extents: Mapping[str, Mapping[str, int]] = {"batch": {"min": 1, "max": 64, "opt": TWO}, **animal.dims}
    dims = {name: torch.export.Dim(name, min=dim["min"], max=dim["max"]) for name, dim in extents.items()}
    inputs, dynamic = {}, {}
    for name, spec in animal.inputs.items():
        shape = [extents[extent]["opt"] if extent in extents else extent for extent in spec["shape"]]
        inputs[name] = torch.ones(shape, dtype=getattr(torch, spec["dtype"]))
        dynamic[name] = {axis: dims[extent] for axis, extent in enumerate(spec["shape"]) if extent in dims}
    return inputs, dynamic


def _onnx(animal: Animal, folder: Path, module: nn.Module) -> dict[str, str]:
    inputs, dynamic = _traced(animal)
    torch.onnx.export(
        module,
        kwargs=inputs,
        f=str(folder / "model.onnx"),
        input_names=list(inputs),
        output_names=list(animal.outputs),
        dynamic_shapes=dynamic,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return {"onnx": "model.onnx"}


def _pt2(animal: Animal, folder: Path, module: nn.Module) -> dict[str, str]:
    inputs, dynamic = _traced(animal)
    torch.export.save(torch.export.export(module, (), inputs, dynamic_shapes=dynamic), folder / "model.pt2")
    return {"pt2": "model.pt2"}


def _torchscript(_animal: Animal, folder: Path, module: nn.Module) -> dict[str, str]:
    torch.jit.script(module).save(str(folder / "model.ts"))  # type: ignore[no-untyped-call]
    return {"torchscript": "model.ts"}


def _mlflow(_animal: Animal, folder: Path, module: nn.Module) -> dict[str, str]:
    import mlflow.pytorch  # noqa: PLC0415 - takes seconds

    mlflow.pytorch.save_model(module, folder / "logged", pip_requirements=["torch"], serialization_format="pickle")
    return {"mlflow": "logged"}


def _package(animal: Animal, folder: Path, _module: nn.Module) -> dict[str, str]:
    package = folder / "animals"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(Path(__file__).with_name("models.py"), package / "nets.py")
    return {"python": f"animals.nets:{animal.build}"}


def _magika(_animal: Animal, folder: Path, _module: nn.Module) -> dict[str, str]:
    """The network that tells kinds of files apart, with the weights that its package carries."""
    found = importlib.util.find_spec("magika")
    assert found is not None
    assert found.origin is not None
    (path,) = Path(found.origin).parent.glob("models/*/model.onnx")
    shutil.copy(path, folder / "model.onnx")
    return {"onnx": "model.onnx"}


WRITERS: Mapping[str, Callable[[Animal, Path, Any], dict[str, str]]] = {
    "checkpoint": _checkpoint,
    "shards": _shards,
    "onnx": _onnx,
    "pt2": _pt2,
    "torchscript": _torchscript,
    "mlflow": _mlflow,
    "package": _package,
    "magika": _magika,
}
