"""The encoder, exported once for the whole run: tracing it takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from filelock import FileLock

from tasks.declared import Frozen
from tasks.records import DataArtifact, ExportedModel
from tasks.specs import ModelSpec
from tasks.stages.export import export_onnx
from tasks.store.local import LocalStore
from tests.shared_servers import shared_folder
from tests.tasks.in_process import InProcess
from tests.tasks.models.directories import make_texts, store_shards, write_directory


class ExportedEncoder(Frozen):
    """What its export made, and the data that it was traced with: shards of different lengths."""

    spec: ModelSpec
    exported: ExportedModel
    data: DataArtifact


@dataclass(frozen=True)
class SharedEncoder:
    """The same, with the workbench on the store where it lies; add to that, and change nothing."""

    context: InProcess
    made: ExportedEncoder


@pytest.fixture(scope="session")
def exported_encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedEncoder:
    """The export that this run makes once, whichever of its workers needs it first."""
    root = shared_folder(request, tmp_path_factory) / "encoder"
    context, said = InProcess(LocalStore(root / "store")), root / "said.json"
    with FileLock(f"{root}.lock"):
        if not said.exists():
            root.mkdir()
            directory = write_directory(root, "encoder")
            data = store_shards(context.store, [make_texts(6, 20), make_texts(5, 9, seed=1)])
            exported = export_onnx(context, directory, data).result
            said.write_text(ExportedEncoder(spec=directory.spec, exported=exported, data=data).model_dump_json())
    return SharedEncoder(context, ExportedEncoder.model_validate_json(said.read_text()))
