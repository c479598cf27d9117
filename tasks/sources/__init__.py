"""Where models come from: one module a kind of source, and their table. docs/sources.md says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.source_spec import FORMS
from tasks.sources.huggingface import HuggingFaceFolder
from tasks.sources.mlflow_model import MlflowModel
from tasks.sources.onnx_file import OnnxFile
from tasks.sources.pt2 import ExportedProgramFile
from tasks.sources.python_callable import PythonCallable
from tasks.sources.python_package import PackageCallable
from tasks.sources.torchscript import TorchScriptFile

if TYPE_CHECKING:
    from tasks.model.model_directory import ModelDirectory
    from tasks.source_spec import SourceSpec
    from tasks.sources.interface import Source

SOURCES: tuple[Source, ...] = (
    PythonCallable(),
    HuggingFaceFolder(),
    OnnxFile(),
    ExportedProgramFile(),
    TorchScriptFile(),
    MlflowModel(),
    PackageCallable(),
)


def source_of(source: str | SourceSpec) -> Source:
    """The kind of source that model.yaml's `source` is of.

    Raises:
        InputError: it is of none.
    """
    for kind in SOURCES:
        if kind.takes(source):
            return kind
    raise InputError(f"model.yaml: source: {str(source)!r} is of no known kind; write {FORMS}")


def outside_of(directory: ModelDirectory) -> dict[str, str]:
    """What a model's source reads beyond its directory; see `Source.outside`."""
    return source_of(directory.spec.source).outside(directory)
