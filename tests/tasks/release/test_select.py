from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RefusedError
from tasks.objects.folder import LocalObjects
from tasks.records import Override
from tasks.registry.channels import move_before, next_move
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.release.select import AUTOMATIC, best_of_newest, point_candidate
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.processes import kill_points
from tests.tasks.registry.keys import signing_as
from tests.tasks.tiny import VERSION, cell, lay_out, make_outcome, manifest_of, timed_at

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore
    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move
    from tasks.store.local import LocalStore

NEWER = "f" * 12
CANDIDATE = ChannelAddress("tiny", "cpu", ChannelName.CANDIDATE)


class Shelf:
    """A registry, and engines to put there."""

    def __init__(self, store: LocalStore, objects: ObjectStore, folder: Path, keys: Path) -> None:
        self._store, self._folder = store, folder
        self.registry = Registry(objects, signing_as(keys))

    def engine(self, precision: str, p50_ms: float, version: str = VERSION, plan: bytes = b"plan") -> EngineManifest:
        outcome = make_outcome(self._store, engine=cell(precision, version), plan=plan)
        manifest = manifest_of(self._store, outcome)
        return manifest.model_copy(update={"benchmark": timed_at(manifest.benchmark, p50_ms)})

    def put(self, manifest: EngineManifest) -> None:
        self.registry.engines.publish(manifest, lay_out(self._store, manifest, self._folder / manifest.engine_id))

    def candidate(self) -> Channel:
        return self.registry.channels.read(CANDIDATE)


@pytest.fixture
def shelf(store: LocalStore, tmp_path: Path) -> Shelf:
    return Shelf(store, MemoryObjects(), tmp_path, tmp_path)


def test_the_candidate_is_the_fastest_engine_of_the_version(shelf: Shelf) -> None:
    for manifest in (shelf.engine("fp32", 3), shelf.engine("int8", 1), shelf.engine("fp16", 0.5, NEWER)):
        shelf.put(manifest)
    move = point_candidate(shelf.registry, "tiny", VERSION, "cpu", None)
    assert move is not None
    assert (move.engine_id, move.who, move.kind) == (f"tiny-cpu-int8@{VERSION}", AUTOMATIC, "promote")
    assert shelf.candidate().current == move
    assert move.reason == (
        f"version {VERSION}: the fastest of 2 that passed: cpu int8 (6x, 5.7 to 6.3), apart from the others"
    )
    assert move.manifest == shelf.registry.engines.read_signed(cell("int8")).digest
    newer = point_candidate(shelf.registry, "tiny", NEWER, "cpu", "ann")
    assert newer is not None
    assert (newer.engine_id, newer.who, newer.before) == (f"tiny-cpu-fp16@{NEWER}", "ann", move.engine_id)


def test_a_conversion_that_is_run_again_moves_nothing_not_even_what_a_person_took_back(shelf: Shelf) -> None:
    shelf.put(shelf.engine("fp32", 3))
    shelf.put(shelf.engine("fp32", 2, NEWER))
    for version in (VERSION, NEWER):
        assert point_candidate(shelf.registry, "tiny", version, "cpu", None)
    for version in (VERSION, NEWER):
        assert point_candidate(shelf.registry, "tiny", version, "cpu", None) is None

    def take_back(channel: Channel) -> Move:
        back = move_before(channel)
        return next_move(
            channel, kind="rollback", engine_id=back.engine_id, manifest=back.manifest, reason="slow",
            override=None, who="ann",
        )  # fmt: skip

    shelf.registry.channels.move(CANDIDATE, take_back)
    assert point_candidate(shelf.registry, "tiny", NEWER, "cpu", None) is None
    current = shelf.candidate().current
    assert current is not None
    assert current.engine_id == f"tiny-cpu-fp32@{VERSION}"


def test_an_upgraded_engine_is_no_newer_version_of_the_model(shelf: Shelf) -> None:
    converted, upgraded = shelf.engine("fp32", 3), shelf.engine("fp32", 1, NEWER)
    upgraded = upgraded.model_copy(update={"upgraded_from": converted.engine_id, "created_at": "2026-11-25T12:00:00Z"})
    shelf.put(upgraded)
    assert best_of_newest(shelf.registry, CANDIDATE).manifest == upgraded, "there is no other"
    shelf.put(converted)
    assert best_of_newest(shelf.registry, CANDIDATE).manifest == converted


def test_a_date_that_its_signer_made_up_makes_no_version_the_newest(shelf: Shelf) -> None:
    now = datetime.now(timezone.utc)
    for hours, engine in ((20, shelf.engine("fp16", 1)), (10, shelf.engine("fp32", 3, NEWER))):
        shelf.put(engine.model_copy(update={"created_at": (now + timedelta(hours=hours)).isoformat()}))
    assert best_of_newest(shelf.registry, CANDIDATE).manifest.cell.version == NEWER, "it came last"


def test_of_other_targets_and_of_nothing_no_candidate_is_made(shelf: Shelf) -> None:
    assert point_candidate(shelf.registry, "tiny", VERSION, "cpu", None) is None
    shelf.put(shelf.engine("fp32", 3))
    assert point_candidate(shelf.registry, "tiny", VERSION, "t4", None) is None
    assert point_candidate(shelf.registry, "tiny", NEWER, "cpu", None) is None


def test_an_engine_that_is_there_by_an_override_is_no_candidate(shelf: Shelf, store: LocalStore) -> None:
    why = Override(reason="tonight only", who="ann", when="2026-11-21T00:00:00+00:00")
    shelf.put(manifest_of(store, make_outcome(store, noise=0.3), override=why))
    assert point_candidate(shelf.registry, "tiny", VERSION, "cpu", None) is None


def test_a_manifest_that_cannot_be_trusted_moves_nothing(shelf: Shelf) -> None:
    shelf.put(shelf.engine("fp32", 3))
    file = ObjectFile(shelf.registry.objects, manifest_key(cell("fp32")))
    file.write_bytes(file.read_bytes().replace(b'"digest":"sha256:', b'"digest":"sha256:0', 1))
    with pytest.raises(RefusedError, match="its manifest"):
        point_candidate(shelf.registry, "tiny", VERSION, "cpu", None)
    assert shelf.candidate().moves == ()


@pytest.mark.hardship
def test_killed_between_registering_and_pointing_the_next_run_points(store: LocalStore, tmp_path: Path) -> None:
    signing_as(tmp_path)  # makes the key
    unused = tmp_path / "unused"
    manifest = Shelf(store, LocalObjects(unused), unused, tmp_path).engine("fp32", 3)
    folders = lay_out(store, manifest, tmp_path / "folders")

    def convert(root: Path) -> None:
        shelf = Shelf(store, LocalObjects(root / "registry"), root, tmp_path)
        shelf.registry.engines.publish(manifest, folders)
        point_candidate(shelf.registry, "tiny", VERSION, "cpu", None)

    killed = 0
    for root in kill_points(convert, tmp_path / "killed"):
        shelf = Shelf(store, LocalObjects(root / "registry"), root, tmp_path)
        assert len(shelf.candidate().moves) <= 1
        convert(root)
        assert len(shelf.candidate().moves) == 1
        killed += 1
    assert killed > 5
