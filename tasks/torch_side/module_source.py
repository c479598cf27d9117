"""Lays a model out for a child process, as its source does it, and blames its code when it ends the child.

Only what is copied here reaches the child, and the stages' keys cover exactly that. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, ModelDirectory
from tasks.model.toolchain import package_versions
from tasks.process.child import ChildFailedError
from tasks.records import ModuleArtifact
from tasks.sources import source_of
from tasks.sources.interface import SOURCE_FOLDER, ModuleRequest
from tasks.store.stage_cache import StageResult, run_cached
from validation.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.specs import ModelSpec
    from tasks.store.interface import ArtifactStore

Reply = TypeVar("Reply")


def module_key(directory: ModelDirectory) -> dict[str, object]:
    """Everything that the loaded module depends on, as a part of a stage's key."""
    spec, source = directory.spec, source_of(directory.spec.source)
    return {
        **source.key(directory),
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "outputs": list(spec.outputs),
        **_names(spec),
        "versions": package_versions(*source.packages),
    }


def _names(spec: ModelSpec) -> dict[str, object]:
    """The outputs that may hold names, where there are any: what they hold was float32 before they had a kind."""
    names = [name for name, output in spec.outputs.items() if KINDS[output.kind].holds_names]
    return {"names": names} if names else {}


def store_module(context: StageContext, directory: ModelDirectory) -> StageResult[ModuleArtifact]:
    """Put copies of the module's files and weights into the store, for runners without the model directory.

    Raises:
        InputError: a file changed while it was read.
    """
    source = source_of(directory.spec.source)
    key = source.key(directory)

    def produce(folder: Path) -> ModuleArtifact:
        source.lay_out(directory, folder / "module", key)
        name = None if directory.weights is None else directory.weights.name
        files = context.store.put(folder / "module")
        return ModuleArtifact(files=files, source=str(directory.spec.source), weights=name)

    return run_cached(context.store, "module", key, ModuleArtifact, produce)


def fetch_module(store: ArtifactStore, module: ModuleArtifact, spec: ModelSpec, folder: Path) -> ModuleRequest:
    """Lay a stored module out below `folder`.

    Raises:
        RefusedError: a file is missing or its bytes have changed.
    """
    return _request(spec, module.weights, store.fetch(module.files, folder))


def _request(spec: ModelSpec, weights: str | None, folder: Path) -> ModuleRequest:
    return ModuleRequest(
        folder=folder / SOURCE_FOLDER, spec=spec, weights=None if weights is None else folder / weights
    )


def store_plugins(context: StageContext, directory: ModelDirectory) -> Artifact | None:
    """Put copies of the plugin libraries that model.yaml names into the store; None where it names none."""
    if not directory.plugins:
        return None
    with context.store.scratch() as folder:
        (folder / "plugins").mkdir()
        for library in directory.plugins:
            shutil.copyfile(library, folder / "plugins" / library.name)
        return context.store.put(folder / "plugins")


def lay_out(directory: ModelDirectory, folder: Path, key: dict[str, object]) -> ModuleRequest:
    """Lay the module out below `folder`, for a child that has `load_module` read it.

    Raises:
        InputError: a file is no longer the one that `key`, from `module_key`, was made of.
    """
    source_of(directory.spec.source).lay_out(directory, folder, key)
    return _request(directory.spec, None if directory.weights is None else directory.weights.name, folder)


def call_with_module(
    context: StageContext, entry: str, request: BaseModel, reply: type[Reply], folder: Path, *, source: str
) -> Reply:
    """Call `entry` in a child that loads the module between its first and its second report of progress.

    Raises:
        InputError: what the user gave is at fault; also when the child died, or ran out of time, while it loaded
            and first ran the user's module.
        StageError: as `call_in_child` raises it, for everything else.
    """
    reached = -1

    def note(done: int, total: int) -> None:
        nonlocal reached
        reached = done
        context.on_progress(done, total)

    try:
        return context.call_in_child(entry, request, reply, folder, on_progress=note, runs_model_code=True)
    except ChildFailedError as error:
        if reached == 0:
            raise InputError(
                f"{SPEC_FILE}: source: {source} ended its process, or never returned, while it was loaded and first"
                f" run; mend the module. {error}"
            ) from None
        raise
