from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.release.rejected import RejectedEngines
from tasks.store.record_folder import RecordFolder
from tests.tasks.tiny import cell, make_outcome, manifest_of

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.store.local import LocalStore


@pytest.fixture
def rejected(store: LocalStore, tmp_path: Path) -> RejectedEngines:
    return RejectedEngines(RecordFolder(tmp_path / "state"), store)


@pytest.fixture
def manifest(store: LocalStore) -> EngineManifest:
    """That of an engine that failed."""
    return manifest_of(store, make_outcome(store, noise=0.3))


def test_an_engine_that_failed_is_found_again_by_its_id_alone(
    rejected: RejectedEngines, manifest: EngineManifest
) -> None:
    assert rejected.find(manifest.cell) is None
    rejected.keep(manifest)
    assert rejected.find(manifest.cell) == manifest
    assert rejected.find(cell("int8")) is None


def test_a_description_that_was_edited_is_none(
    rejected: RejectedEngines, manifest: EngineManifest, tmp_path: Path
) -> None:
    rejected.keep(manifest)
    (record,) = (tmp_path / "state" / "records" / "rejected").iterdir()
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"fail"', '"pass"'))
    assert rejected.find(manifest.cell) is None


def test_what_did_not_pass_is_known_after_the_store_was_deleted_but_cannot_be_served(
    rejected: RejectedEngines, manifest: EngineManifest, store: LocalStore, tmp_path: Path
) -> None:
    rejected.keep(manifest)
    assert rejected.faults(manifest) == []
    store.root.rename(tmp_path / "gone")
    assert rejected.find(manifest.cell) == manifest
    assert "plan: files are missing in the artifact store" in rejected.faults(manifest)
