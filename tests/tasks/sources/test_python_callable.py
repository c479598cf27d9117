from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.sources import SOURCES, source_of
from tasks.sources.interface import ModuleRequest
from tasks.sources.python_callable import PythonCallable
from tasks.torch_side.module_source import module_key
from tests.tasks.in_process import forgotten_imports

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("source", ["model.py:build", "lib/model.py:Model"])
def test_a_file_with_a_callable_is_a_python_callable_and_of_no_other_kind(source: str) -> None:
    assert [type(kind) for kind in SOURCES if kind.takes(source)] == [PythonCallable]
    assert isinstance(source_of(source), PythonCallable)


@pytest.mark.parametrize("source", ["", "model.py", "model:build", "model.py:1", "model.onnx", "runs:/1/model"])
def test_a_source_of_no_kind_is_refused_with_how_to_write_one(source: str) -> None:
    with pytest.raises(InputError, match=r"source: .* is of no known kind; write file.py:callable"):
        source_of(source)


def test_the_key_of_a_module_is_what_stages_have_recorded(write_model: Callable[..., Path]) -> None:
    """Its parts by name: another name, or another part, would have every stage of every store done again."""
    directory = read_model_directory(write_model(weights="weights.safetensors"))
    key = module_key(directory)
    assert sorted(key) == ["inputs", "outputs", "source", "sources", "versions", "weights"]
    assert sorted(source_of("model.py:build").key(directory)) == ["source", "sources", "weights"]
    assert key["source"] == "model.py:build"
    assert key["sources"] == directory.source_files()
    assert isinstance(key["versions"], dict)
    assert sorted(key["versions"]) == ["numpy", "python", "safetensors", "torch"]


def test_the_table_of_sources_is_read_without_torch() -> None:
    ask = "import sys, tasks.sources, tasks.torch_side.module_source; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


RELATIVE = {
    "beside": ("model.py", {"model.py": "from . import net\nfrom .net import build as made\n", "net.py": ""}),
    "a package": ("lib/model.py", {"lib/__init__.py": "", "lib/model.py": "from .net import build as made\n"}),
    "a folder without __init__": ("lib/model.py", {"lib/model.py": "from .net import build as made\n"}),
    "above": ("lib/model.py", {"lib/model.py": "from ..net import build as made\n", "net.py": ""}),
    "the directory is a package": (
        "model.py", {"__init__.py": "SIZE = 3\n", "model.py": "from . import SIZE\nfrom .net import build as made\n"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", RELATIVE)
def test_a_source_may_import_relatively(tmp_path: Path, write_model: Callable[..., Path], layout: str) -> None:
    relative, files = RELATIVE[layout]
    source = f"{relative}:build"
    folder = tmp_path / "laid out"
    net = folder / ("net.py" if "net.py" in files or layout == "the directory is a package" else "lib/net.py")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\ndef build():\n    return made()\n" if name == relative else text)
    net.write_text("def build():\n    return 'built'\n")
    spec = read_model_directory(write_model()).spec.model_copy(update={"source": source})
    with forgotten_imports(folder):
        assert PythonCallable().load(ModuleRequest(folder=folder, spec=spec, weights=None)) == "built"


def test_what_a_relative_import_lacks_is_told_with_its_place(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    (tmp_path / "model.py").write_text("\nfrom .nowhere import build\n")
    spec = read_model_directory(write_model()).spec
    with forgotten_imports(tmp_path), pytest.raises(InputError, match=r"nowhere.*\(model.py, line 2\)"):
        PythonCallable().load(ModuleRequest(folder=tmp_path, spec=spec, weights=None))
