"""Starts a child process where a model's code may name its modules as it likes, also as this product names its own.

There the product is the package `_enginegate`: its modules import `tasks.…` and get `_enginegate.tasks.…`, by an
`__import__` in builtins of their own, at whatever time they import. Everybody else finds under the product's names what
was put on the path later, as a model's folder is, and nothing of an installed product.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRIVATE = "_enginegate"
PRODUCT = frozenset({"flows", "tasks", "validation"})
ROOT = Path(__file__).resolve().parents[2]
_python_import = builtins.__import__


class ProductFinder:
    """Finds the product's modules below `_enginegate`, and for everybody else hides those of its top-level `names`."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names, self._older_path = names, frozenset(sys.path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder. Raises ModuleNotFoundError, so that no other finder is asked."""
        if name.startswith(f"{PRIVATE}."):
            spec = PathFinder.find_spec(name, path)
            if spec is not None and isinstance(spec.loader, SourceFileLoader):
                spec.loader = _ProductLoader(name, spec.loader.path, self.import_product)
            return spec
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, [folder for folder in sys.path if folder not in self._older_path])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec

    def import_product(
        self,
        name: str,
        names: Mapping[str, object] | None = None,
        local_names: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` calls in the product's modules."""
        top = name.partition(".")[0]
        if level or top not in self._names:
            return _python_import(name, names, local_names, fromlist or (), level)
        module = importlib.import_module(f"{PRIVATE}.{name}")
        if not fromlist:
            return sys.modules[f"{PRIVATE}.{top}"]
        return _python_import(module.__name__, names, local_names, fromlist)


class _ProductLoader(SourceFileLoader):
    def __init__(self, name: str, path: str, product_import: Any) -> None:
        super().__init__(name, path)
        self._builtins = {**vars(builtins), "__import__": product_import}

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._builtins  # as exec() documents it: the module's builtins
        super().exec_module(module)


def hide_product(*more: str) -> None:
    """Give the product its own name in this process; `more` are top-level names beside its own that belong to it."""
    names = PRODUCT | {*more}
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]  # what a .pth file or sitecustomize has imported
    package = ModuleType(PRIVATE)
    package.__path__ = [str(ROOT)]
    sys.modules[PRIVATE] = package
    sys.meta_path.insert(0, ProductFinder(names))


if __name__ == "__main__":
    hide_product(sys.argv[1].partition(".")[0])
    importlib.import_module(f"{PRIVATE}.tasks.process.child").serve(sys.argv[1:])
