"""Finds the validation data of a registered engine: in this host's store, or where `--data` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.conversion.calibration_sets import sample_files, take_data
from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, read_model_directory
from tasks.release.known_data import UNNAMED, needs_data, refuse_other_data
from tasks.samples.npz import load_arrays, shard_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flows.session import Session
    from tasks.records import DataArtifact, EngineManifest
    from tasks.specs import ModelSpec


@dataclass(frozen=True)
class FoundData:
    """Validation data, and what is to be said of them."""

    data: DataArtifact
    note: str = ""


def find_data(session: Session, manifest: EngineManifest, spec: ModelSpec, given: Sequence[Path]) -> FoundData:
    """The data that an engine was compared on, whose reference outputs and smoke samples are in the store.

    Raises:
        InputError: they are neither in the store nor among what was given; or what was given are others.
    """
    named, store = manifest.data, session.store
    if named is not None and store.contains(named.inputs) and store.contains(named.annotations):
        return FoundData(named)
    places = {path: files for path in given if (files := _files_for(path, spec.name))}
    if not places:
        raise InputError(needs_data(manifest))
    faults = []
    for path, files in places.items():
        try:
            ordered = _in_order(session, manifest, spec)
            data = take_data(session, f"validation data of {spec.name}", ordered, files, f"--data {path.name}")
            refuse_other_data(session.stage_context(), manifest, data, f"--data {path}")
        except InputError as error:
            faults.append(str(error))
        else:
            return FoundData(data, UNNAMED if named is None else "")
    raise InputError("\n".join(faults))


def _files_for(path: Path, model: str) -> tuple[Path, ...]:
    """The files of data at `path`; none where it is the directory of another model."""
    if not (path / SPEC_FILE).is_file():
        return sample_files(path)
    directory = read_model_directory(path)
    return tuple(directory.validation) if directory.spec.name == model else ()


def _in_order(session: Session, manifest: EngineManifest, spec: ModelSpec) -> ModelSpec:
    """The model with its inputs in the order of model.yaml, which a manifest loses and the bytes of shards keep."""
    with session.store.scratch() as folder:
        first = shard_paths(session.store.fetch(manifest.smoke.inputs, folder / "smoke"))[0]
        names = list(load_arrays(first))
    return spec.model_copy(update={"inputs": {name: spec.inputs[name] for name in names}})
