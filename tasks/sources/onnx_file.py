"""`onnx: file`: the reference is the file itself, in FP32 on ONNX Runtime, and the export is the file as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.source_spec import SourceSpec
from tasks.sources.interface import ORIGIN, SOURCE_FOLDER, ModuleRequest, copy_file, digests_outside, named
from tasks.store.digests import digest_once

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory

FIELD = f"{ORIGIN}.onnx"


class OnnxFile:
    """The file, and those that its tensors keep their data in; they lie beside it."""

    packages: tuple[str, ...] = ("torch", "numpy", "onnx", "onnxruntime")

    def takes(self, source: str | SourceSpec) -> bool:
        """`{onnx: file}`; see the interface."""
        return isinstance(source, SourceSpec) and source.kind == "onnx"

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """Digests of the file and of its data; see the interface."""
        files = {name: digest_once(path) for name, path in _files(directory).items()}
        return {"source": named(directory).model_dump(mode="json"), "files": files}

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """Digests of what lies beside the directory; see the interface."""
        path = directory.source_path
        if path is None or path.is_relative_to(directory.root):
            return {}
        return digests_outside(directory, _files(directory))

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the files; see the interface."""
        digests = key["files"]
        assert isinstance(digests, dict)  # noqa: S101 - as `key` made it
        for name, path in _files(directory).items():
            copy_file(path, folder / SOURCE_FOLDER / name, digests.get(name, ""))

    def load(self, request: ModuleRequest) -> object:
        """A module that runs ONNX Runtime; see the interface."""
        from tasks.sources.onnx_module import OnnxModule  # noqa: PLC0415 - imports torch

        source = request.spec.source
        assert isinstance(source, SourceSpec)  # noqa: S101 - `takes` said so
        name = source.value.replace("\\", "/").rpartition("/")[2]
        return OnnxModule(request.folder / name, request.spec, f"{FIELD}: {source.value}")


def _files(directory: ModelDirectory) -> dict[str, Path]:
    """The file and its data, by path relative to its folder."""
    from tasks.graphs.onnx_files import external_files  # noqa: PLC0415 - onnx, which other sources need not have

    path, source = directory.source_path, named(directory)
    assert path is not None  # noqa: S101 - the kind has a path
    # A link may lead to a file of another name: it is called as model.yaml calls it, and its data lie where it does.
    name = source.value.replace("\\", "/").rpartition("/")[2]
    try:
        return {name: path, **external_files(path)}
    except InputError as error:
        raise InputError(f"{FIELD}: {error}") from None
