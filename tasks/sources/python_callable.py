"""`file:callable`: a function of the model directory builds the module, and model.yaml may name weights for it."""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import importlib.util
import re
import sys
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import InputError
from tasks.sources.interface import ORIGIN, SOURCE_FOLDER, ModuleRequest, copy_file, explain
from tasks.store.digests import digest_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from tasks.model.model_directory import ModelDirectory
    from tasks.source_spec import SourceSpec

Made = TypeVar("Made")
ROOT_PACKAGE = "model_source"
"""The package that a model directory is where its source imports relatively."""
WRITTEN = re.compile(r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*")


class PythonCallable:
    """The files are all that the code may read, so its key has every file of the directory that has no other use."""

    packages: tuple[str, ...] = ("torch", "safetensors", "numpy")

    def takes(self, source: str | SourceSpec) -> bool:
        """`file.py:callable`; see the interface."""
        return isinstance(source, str) and WRITTEN.fullmatch(source) is not None

    def outside(self, directory: ModelDirectory) -> dict[str, str]:  # noqa: ARG002 - as the interface has it
        """Nothing: the files of the directory are all that it reads."""
        return {}

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """Digests of the sources by path, and of the weights; see the interface."""
        return {
            "sources": directory.source_files(),
            "source": directory.spec.source,
            "weights": None if directory.weights is None else digest_once(directory.weights),
        }

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the sources, and the weights beside them; see the interface."""
        digests = key["sources"]
        assert isinstance(digests, dict)  # noqa: S101 - as `key` made it
        for relative, digest in digests.items():
            copy_file(directory.root / relative, folder / SOURCE_FOLDER / relative, digest)
        if directory.weights is not None:
            copy_file(directory.weights, folder / directory.weights.name, str(key["weights"]))

    def load(self, request: ModuleRequest) -> object:
        """Call the callable, and load the weights into what it returns; see the interface."""
        from torch import nn  # noqa: PLC0415 - the other methods run where there is no torch

        from tasks.sources.state_dict import load_weights  # noqa: PLC0415 - as above

        module = call_source(request, str(request.spec.source), _find_callable(request))
        if request.weights is not None and isinstance(module, nn.Module):
            load_weights(module, request.weights)
        return module


def _find_callable(request: ModuleRequest) -> Callable[[], object]:
    relative, _, name = str(request.spec.source).rpartition(":")
    path = request.folder / relative
    # As a script would: what lies beside the source can be imported.
    sys.path[:0] = dict.fromkeys((str(path.parent), str(request.folder)))
    module_name = path.stem if path.stem not in sys.modules else f"model_source_{path.stem}"
    if _imports_relatively(path):
        module_name = call_source(request, relative, lambda: f"{_package_of(request.folder, path)}.{path.stem}")
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None  # noqa: S101 - the path ends in .py
    assert specification.loader is not None  # noqa: S101 - as above
    source = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = source
    loader = specification.loader
    call_source(request, relative, lambda: loader.exec_module(source))
    return callable_of(source, name, f"{ORIGIN}: {relative}")


def callable_of(source: ModuleType, name: str, origin: str) -> Callable[[], object]:
    """What an imported module calls `name`.

    Raises:
        InputError: that is nothing that can be called; the nearest name is told.
    """
    found = getattr(source, name, None)
    if not callable(found):
        known = sorted(key for key, value in vars(source).items() if callable(value) and not key.startswith("_"))
        hint = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {hint[0]!r}?" if hint else "define it there"
        raise InputError(f"{origin} has no callable {name!r}; {remedy}")
    return found  # type: ignore[no-any-return]  # callable() does not say what it returns


def _imports_relatively(path: Path) -> bool:
    """Whether a source has `from . import x`; what Python says of one that is no Python is left to its import."""
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in nodes)


def _package_of(root: Path, path: Path) -> str:
    """The package that a source lies in, imported: that of its folders, and above all of them the model directory."""
    package = ROOT_PACKAGE
    top = importlib.machinery.ModuleSpec(package, None, is_package=True)
    if (root / "__init__.py").is_file():
        top = importlib.util.spec_from_file_location(package, root / "__init__.py") or top
    top.submodule_search_locations = [str(root)]
    sys.modules[package] = importlib.util.module_from_spec(top)
    if top.loader is not None:
        top.loader.exec_module(sys.modules[package])
    for part in path.parent.relative_to(root).parts:
        package = f"{package}.{part}"
        importlib.import_module(package)
    return package


def call_source(request: ModuleRequest, what: str, function: Callable[[], Made]) -> Made:
    """What the user's code returns; InputError with its place where it raises."""
    try:
        return function()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        raise InputError(f"{ORIGIN}: {what} raised {explain(error, request)}; mend the module") from None
