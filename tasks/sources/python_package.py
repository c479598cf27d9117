"""`python: package.module:callable`: a callable of a package, in the model directory or installed here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.source_spec import SourceSpec
from tasks.sources.interface import ORIGIN, SOURCE_FOLDER, ModuleRequest, copy_file, named
from tasks.sources.python_callable import call_source, callable_of
from tasks.store.digests import digest_json, digest_once

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from tasks.model.model_directory import ModelDirectory

FIELD = f"{ORIGIN}.python"
DIGEST_FILE = ".package-digest"
"""Beside what is laid out: what an installed package must be where it is loaded."""


class PackageCallable:
    """A package of the directory is laid out with it; an installed one is read where it is, and must be the same."""

    packages: tuple[str, ...] = ("torch", "safetensors", "numpy")

    def takes(self, source: str | SourceSpec) -> bool:
        """`{python: package.module:callable}`; see the interface."""
        return isinstance(source, SourceSpec) and source.kind == "python"

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """Digests of the directory's sources, of the package where it is installed, and of the weights."""
        return {
            "sources": directory.source_files(),
            "source": named(directory).model_dump(mode="json"),
            "package": _digest_outside(directory),
            "weights": None if directory.weights is None else digest_once(directory.weights),
        }

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """The digest of an installed package; see the interface."""
        digest = _digest_outside(directory)
        return {} if digest is None else {f"package {_top(named(directory))}": digest}

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the sources and the weights, and write down what an installed package must be."""
        digests = key["sources"]
        assert isinstance(digests, dict)  # noqa: S101 - as `key` made it
        for relative, digest in digests.items():
            copy_file(directory.root / relative, folder / SOURCE_FOLDER / relative, digest)
        if directory.weights is not None:
            copy_file(directory.weights, folder / directory.weights.name, str(key["weights"]))
        if key["package"] is not None:
            (folder / SOURCE_FOLDER).mkdir(parents=True, exist_ok=True)
            (folder / SOURCE_FOLDER / DIGEST_FILE).write_text(str(key["package"]))

    def load(self, request: ModuleRequest) -> object:
        """Call the callable, and load the weights into what it returns; see the interface."""
        from torch import nn  # noqa: PLC0415 - the other methods run where there is no torch

        from tasks.sources.state_dict import load_weights  # noqa: PLC0415 - as above

        source = request.spec.source
        assert isinstance(source, SourceSpec)  # noqa: S101 - `takes` said so
        module_name, _, name = source.value.partition(":")
        sys.path.insert(0, str(request.folder))
        wanted = request.folder / DIGEST_FILE
        if wanted.is_file() and _digest(importlib.util.find_spec(_top(source))) != wanted.read_text():
            raise InputError(
                f"{FIELD}: package {_top(source)} is another here than where the conversion was planned; install the"
                " same release, or put the package into the model directory"
            )
        imported = call_source(request, module_name, lambda: importlib.import_module(module_name))
        module = call_source(request, source.value, callable_of(imported, name, f"{FIELD}: {module_name}"))
        if request.weights is not None and isinstance(module, nn.Module):
            load_weights(module, request.weights)
        return module


def _top(source: SourceSpec) -> str:
    return source.value.partition(":")[0].partition(".")[0]


def _digest_outside(directory: ModelDirectory) -> str | None:
    """The digest of the package's files; None where it lies in the model directory, whose sources are all known.

    Raises:
        InputError: there is no such package.
    """
    top = _top(named(directory))
    if PathFinder.find_spec(top, [str(directory.root)]) is not None:
        return None
    found = importlib.util.find_spec(top)
    if found is None:
        raise InputError(
            f"{FIELD}: there is no package {top!r} in the model directory, nor installed here; install it with the same"
            " Python as enginegate, or correct the name"
        )
    return _digest(found)


def _digest(found: ModuleSpec | None) -> str:
    """`sha256:…` of all files of a package but compiled Python, or of a module's one file."""
    if found is None:
        return "missing"
    roots = [Path(place) for place in found.submodule_search_locations or ()]
    if not roots:
        return digest_once(Path(found.origin)) if found.origin and Path(found.origin).is_file() else "built-in"
    files = {
        path.relative_to(root).as_posix(): digest_once(path)
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    return digest_json(files)
