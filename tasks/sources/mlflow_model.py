"""`mlflow: models:/name@alias`: a model that MLflow has, or a folder of one, of flavor pytorch or transformers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.model.documents import read_yaml
from tasks.model.toolchain import release_of
from tasks.source_spec import SourceSpec
from tasks.sources.huggingface import find_checkpoint, load_checkpoint
from tasks.sources.interface import ORIGIN, SOURCE_FOLDER, ModuleRequest, copy_file, explain, named
from tasks.sources.mlflow_address import Resolved, resolve
from tasks.store.digests import digest_json, digest_once

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory

FIELD = f"{ORIGIN}.mlflow"
DESCRIPTION = "MLmodel"
FLAVORS = ("pytorch", "transformers")
# What a download adds, and what describes an environment that is not used.
NOT_READ = ("registered_model_meta", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json")


class MlflowModel:
    """Resolved to a version and downloaded where the model directory is; a child gets the files alone."""

    packages: tuple[str, ...] = ("torch", "safetensors", "numpy")

    def takes(self, source: str | SourceSpec) -> bool:
        """`{mlflow: address or folder}`; see the interface."""
        return isinstance(source, SourceSpec) and source.kind == "mlflow"

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """The version that the address is of now, and digests of its files; see the interface."""
        found = _resolved(directory)
        files = {name: digest_once(path) for name, path in _files(found, named(directory)).items()}
        return {
            "source": named(directory).model_dump(mode="json"),
            "version": found.version,
            "files": files,
            **_releases(found.folder),
        }

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """The version and the digest of what is not in the directory; see the interface."""
        found, source = _resolved(directory), named(directory)
        if found.folder.is_relative_to(directory.root):  # of a commit, its files are there by name alone
            return {"transformers": release_of("transformers") or "none"}
        files = {name: digest_once(path) for name, path in _files(found, source).items()}
        marks = {f"digest of {source.value}": digest_json(files)}
        if found.version is not None:
            marks[f"version of {source.value}"] = found.version
        return {**marks, **_releases(found.folder)}

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the files of the version; see the interface."""
        digests = key["files"]
        assert isinstance(digests, dict)  # noqa: S101 - as `key` made it
        found, source = _resolved(directory), named(directory)
        if found.version != key["version"]:
            raise InputError(
                f"{FIELD}: {source.value} moved from version {key['version']} to {found.version} while it was read; run"
                " the conversion again, or name the version"
            )
        for name, path in _files(found, source).items():
            copy_file(path, folder / SOURCE_FOLDER / name, digests.get(name, ""))

    def load(self, request: ModuleRequest) -> object:
        """Load it as its flavor says, with its own code beside it; see the interface."""
        source = request.spec.source
        assert isinstance(source, SourceSpec)  # noqa: S101 - `takes` said so
        flavor, data, code = flavor_of(request.folder, f"{FIELD}: {source.value}")
        if code is not None:
            sys.path.insert(0, str(code))
        if flavor == "transformers":
            return load_checkpoint(request, data, source, FIELD)
        return _load_pytorch(request, data, f"{FIELD}: {source.value}")


def _load_pytorch(request: ModuleRequest, data: Path, origin: str) -> object:
    import torch  # noqa: PLC0415 - the other methods run where there is no torch

    programs, pickles = sorted(data.glob("*.pt2")), sorted(data.glob("*.pth"))
    if not programs and not pickles:
        raise InputError(f"{origin}: {data.name} holds neither model.pth nor model.pt2; log the model again")
    try:
        if programs:
            from tasks.sources.archived_module import ProgramModule, refuse_other_inputs  # noqa: PLC0415 - as above

            program = ProgramModule(torch.export.load(programs[0]))
            refuse_other_inputs(program.taken, request.spec, origin)
            return program
        return torch.load(pickles[0], map_location="cpu", weights_only=False)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the pickle's code can raise anything
        raise InputError(
            f"{origin}: cannot be loaded: {explain(error, request)}; log it with code_paths that hold its classes, or"
            " install the package that they are in"
        ) from None


def _resolved(directory: ModelDirectory) -> Resolved:
    if directory.source_path is not None:
        return Resolved(directory.source_path, None)
    return resolve(named(directory).value, FIELD)


def _files(found: Resolved, source: SourceSpec) -> dict[str, Path]:
    """What is laid out, by path from the model's folder, its flavor being one that is known."""
    flavor, data, _ = flavor_of(found.folder, f"{FIELD}: {source.value}")
    if flavor == "transformers":
        find_checkpoint(data, source)
    return {
        path.relative_to(found.folder).as_posix(): path
        for path in sorted(found.folder.rglob("*"))
        if path.is_file() and path.name not in NOT_READ and "__pycache__" not in path.parts
    }


def flavor_of(folder: Path, origin: str) -> tuple[str, Path, Path | None]:
    """The flavor of a model's folder, the folder of its data, and that of its code, if any; `origin` begins messages.

    Raises:
        InputError: it is no model of MLflow, of another flavor, or its data lie elsewhere.
    """
    if not (folder / DESCRIPTION).is_file():
        raise InputError(f"{origin}: has no {DESCRIPTION}, so it is no model of MLflow; correct the address")
    flavors = read_yaml(folder / DESCRIPTION).get("flavors")
    known: dict[str, Any] = flavors if isinstance(flavors, dict) else {}
    flavor = next((name for name in FLAVORS if isinstance(known.get(name), dict)), None)
    if flavor is None:
        raise InputError(
            f"{origin}/{DESCRIPTION}: flavors: {', '.join(known) or 'none'}; log the model by mlflow.pytorch.log_model"
            " or mlflow.transformers.log_model, or give its ONNX file as source"
        )
    said = known[flavor]
    data = _below(folder, said.get("model_data" if flavor == "pytorch" else "model_binary"), origin)
    code = said.get("code")
    return flavor, data, None if code is None else _below(folder, code, origin)


def _below(folder: Path, written: object, origin: str) -> Path:
    path = (folder / str(written)).resolve()
    if written is None or not path.is_relative_to(folder.resolve()) or not path.is_dir():
        raise InputError(
            f"{origin}/{DESCRIPTION}: names {written} for its data, which is no folder of it; log it again"
        )
    return path


def _releases(folder: Path) -> dict[str, str]:
    """The release of Transformers, where the model is of that flavor."""
    flavor = flavor_of(folder, FIELD)[0]
    return {"transformers": release_of("transformers") or "none"} if flavor == "transformers" else {}
