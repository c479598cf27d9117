"""What a source does: it says what the module depends on, lays it out for a child, and loads it there."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.declared import Frozen
from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, ModelDirectory
from tasks.source_spec import SourceSpec
from tasks.specs import ModelSpec
from tasks.store.digests import copy_checked, digest_once

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIGIN = f"{SPEC_FILE}: source"
SOURCE_FOLDER = "source"
SAVE_PICKLE = (
    'python -c "import sys, torch; from safetensors.torch import save_file; states = [torch.load(path,'
    " map_location='cpu', weights_only=True) for path in sys.argv[1:]]; save_file({{name: tensor.clone().contiguous()"
    " for state in states for name, tensor in state.items()}}, 'model.safetensors', metadata={{'format': 'pt'}})\" {0}"
)
"""The command that turns a pickle, or the shards of one, into safetensors, in a process of its own."""


class ModuleRequest(Frozen):
    """Where a child finds a model's module: what `Source.lay_out` put into `folder`, and the weights, if any."""

    folder: Path
    spec: ModelSpec
    weights: Path | None


class Source(Protocol):
    """A kind of place where a model comes from. All but `load` runs where there may be no torch.

    The export, the reference and the benchmark go through these methods alone, and what they keep is found again by
    `key`. So `key` covers everything that the loaded module depends on, and `load` reads only what `lay_out` laid out.
    """

    packages: tuple[str, ...]
    """The packages whose releases the loaded module depends on."""

    def takes(self, source: str | SourceSpec) -> bool:
        """Whether model.yaml's `source` is of this kind."""

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """Its part of a stage's key: `source`, and the digests of the files behind it."""

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """Digests and releases of what it reads beyond the model directory, for the engines' version.

        Raises:
            InputError: it is not there, or not whole.
        """

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy its files below `folder`/source, and the weights that model.yaml names into `folder`.

        Raises:
            InputError: a file is no longer the one that `key` was made of.
        """

    def load(self, request: ModuleRequest) -> object:
        """The `torch.nn.Module` with its weights; the caller checks that it is one. Runs in a child.

        Raises:
            InputError: the source or the weights do not fit, or the user's code raised.
        """


def named(directory: ModelDirectory) -> SourceSpec:
    """The mapping that model.yaml's `source` is, of the kinds that have one."""
    source = directory.spec.source
    assert isinstance(source, SourceSpec)  # noqa: S101 - `takes` said so
    return source


def digests_outside(directory: ModelDirectory, files: Mapping[str, Path]) -> dict[str, str]:
    """Digests of those files that do not lie in the model directory, whose own are in the version anyhow."""
    return {name: digest_once(path) for name, path in files.items() if not path.is_relative_to(directory.root)}


def copy_file(source: Path, target: Path, digest: str) -> None:
    """Copy a file of the model for a child.

    Raises:
        InputError: it has another digest by now.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy_checked(source, target, digest):
        raise InputError(
            f"{source.name}: changed while it was read; run the conversion again, and keep logs and notebooks elsewhere"
        )


def explain(error: BaseException, request: ModuleRequest) -> str:
    """`ValueError: what it says (model.py, line 12)`; the place is the last one in the user's own files."""
    folder = request.folder
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in Path(frame.filename).parents]
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}, line {error.lineno})"
    elif frames:
        place = f" ({Path(frames[-1].filename).relative_to(folder)}, line {frames[-1].lineno})"
    else:
        place = ""
    return f"{type(error).__name__}: {error}{place}"
