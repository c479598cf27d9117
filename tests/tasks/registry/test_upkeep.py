from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from tasks.errors import InputError, RefusedError
from tasks.objects.folder import LocalObjects
from tasks.registry.channels import next_move
from tasks.registry.evidence import artifacts_of
from tasks.registry.layout import blob_key, manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName, is_model_name
from tasks.registry.registry import Registry
from tasks.registry.retention import Hold, moment_ago, plan_removal
from tasks.registry.signing import Signing
from tasks.registry.survey import in_threads, read_manifests, survey_registry
from tasks.registry.upkeep import Removed, remove_loose
from tasks.store.digests import canonical_json
from tasks.store.local import LocalStore
from tests.hardship import numbers
from tests.tasks.conftest import place_at
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.processes import kill_points, race
from tests.tasks.registry.keys import trust
from tests.tasks.tiny import cell, lay_out, make_outcome, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.objects.interface import Entry, ObjectStore
    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move
    from tasks.registry.retention import RemovalPlan
    from tests.tasks.conftest import Place

NOW = datetime.now(timezone.utc)
ALL_OLD, ALL_YOUNG = NOW + timedelta(days=1), NOW - timedelta(days=1)
LONG_AGO = NOW - timedelta(days=100)
ROUNDS = numbers().rounds
CANDIDATE = ChannelAddress("tiny", "cpu", ChannelName.CANDIDATE)
VERSIONS = ["a" * 12, "b" * 12, "c" * 12, "d" * 12]


@dataclass(frozen=True)
class Engines:
    """Engines of one model that share all files but their plans, and the folders to register them from."""

    manifests: list[EngineManifest]
    folders: list[dict[str, Path]]

    def register(self, registry: Registry, *numbers: int) -> None:
        for number in numbers:
            registry.engines.publish(self.manifests[number], self.folders[number])

    def id_of(self, number: int) -> str:
        return self.manifests[number].engine_id


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    folder = tmp_path_factory.mktemp("engines")
    store = LocalStore(folder / "store")
    manifests = [
        manifest_of(
            store, make_outcome(store, plan=version.encode(), engine=cell(version=version)), created_at="2020-01-01"
        )
        for version in VERSIONS
    ]
    return Engines(manifests, [lay_out(store, one, folder / one.cell.version) for one in manifests])


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store in a folder and in S3."""
    return place_at(request.param, request, tmp_path)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(LocalObjects(tmp_path / "registry"), Signing())


@pytest.fixture(scope="module")
def full(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with all of them, to be copied."""
    registry = Registry(LocalObjects(tmp_path_factory.mktemp("full")), Signing())
    engines.register(registry, *range(4))
    return registry


def promote(registry: Registry, manifest: EngineManifest, name: ChannelName = ChannelName.CANDIDATE) -> None:
    digest = registry.engines.read_signed(manifest.cell).digest
    registry.channels.move(
        ChannelAddress("tiny", manifest.cell.target, name),
        functools.partial(_promotion, manifest=manifest, digest=digest),
    )


def _promotion(channel: Channel, manifest: EngineManifest, digest: str) -> Move:
    return next_move(
        channel,
        kind="promote",
        engine_id=manifest.engine_id,
        manifest=digest,
        reason="",
        override=None,
        who="ann",
    )


def snapshot(objects: ObjectStore) -> dict[str, tuple[Entry, bytes]]:
    """Every object with its time and bytes."""
    found = {}
    for entry in objects.list(""):
        content = objects.read(entry.key)
        assert content is not None
        found[entry.key] = (entry, content.content)
    return found


def keys_of(manifest: EngineManifest) -> set[str]:
    return {blob_key(file.digest) for artifact in artifacts_of(manifest).values() for file in artifact.files}


def keys_below(registry: Registry, prefix: str) -> set[str]:
    return {entry.key for entry in registry.objects.list(prefix)}


def registered(registry: Registry) -> list[str]:
    return [found.engine_id for found in registry.engines.list_cells()]


def names(plan: RemovalPlan) -> list[str]:
    return [engine.cell.engine_id for engine in plan.engines]


def set_age(registry: Registry, moment: datetime, prefix: str = "") -> None:
    """Make the objects of a folder that old."""
    for entry in registry.objects.list(prefix):
        os.utime(registry.objects.root / entry.key, (moment.timestamp(),) * 2)


def local(registry: Registry, key: str) -> Path:
    path = registry.objects.root / key
    path.chmod(0o644)
    return path


def test_a_plan_changes_nothing(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1, 2)
    promote(registry, engines.manifests[0])
    before = snapshot(registry.objects)
    plan = plan_removal(registry, ALL_OLD)
    assert names(plan) == [engines.id_of(1), engines.id_of(2)]
    assert snapshot(registry.objects) == before


def test_what_channels_and_their_history_name_stays_whole_and_the_rest_goes(place: Place, engines: Engines) -> None:
    registry = Registry(place.open(), Signing())
    engines.register(registry, 0, 1, 2, 3)
    promote(registry, engines.manifests[0])
    promote(registry, engines.manifests[1])
    promote(registry, engines.manifests[1], ChannelName.STAGING)
    plan = plan_removal(registry, ALL_OLD)
    assert {(one.name, one.hold, one.why) for one in plan.kept} == {
        (engines.id_of(0), Hold.HISTORY, "candidate of tiny for cpu"),
        (engines.id_of(1), Hold.CHANNEL, "candidate of tiny for cpu, staging of tiny for cpu"),
    }
    kept = keys_of(engines.manifests[0]) | keys_of(engines.manifests[1])
    loose = (keys_of(engines.manifests[2]) | keys_of(engines.manifests[3])) - kept
    assert {entry.key for entry in plan.files} == loose
    assert {one.name for one in plan.kept_files} == kept
    assert {one.why for one in plan.kept_files} <= {engines.id_of(0), engines.id_of(1)}
    told: list[tuple[int, int]] = []
    removed = remove_loose(registry, plan, lambda *progress: told.append(progress))
    assert [one.engine_id for one in removed.engines] == [engines.id_of(2), engines.id_of(3)]
    assert {entry.key for entry in removed.files} == loose
    assert removed.size_bytes == plan.size_bytes == sum(entry.size_bytes for entry in plan.files)
    assert removed.spared == ()
    assert told[-1] == (2 + len(loose), 2 + len(loose))
    assert keys_below(registry, "blobs/") == kept
    assert registered(registry) == [engines.id_of(0), engines.id_of(1)]
    assert [registry.engines.verify(engines.manifests[number].cell) for number in (0, 1)] == [[], []]
    assert plan_removal(registry, ALL_OLD).engines == ()


def test_an_engine_that_a_rollback_left_stays(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1)
    promote(registry, engines.manifests[0])
    promote(registry, engines.manifests[1])
    promote(registry, engines.manifests[0])  # as a rollback does
    plan = plan_removal(registry, ALL_OLD)
    assert {one.name: one.hold for one in plan.kept} == {
        engines.id_of(0): Hold.CHANNEL,
        engines.id_of(1): Hold.HISTORY,
    }


def test_what_is_young_stays(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0)
    registry.objects.create(blob_key("sha256:" + "0" * 64), b"orphan")
    plan = plan_removal(registry, ALL_YOUNG)
    assert [(one.name, one.hold) for one in plan.kept] == [(engines.id_of(0), Hold.AGE)]
    assert (plan.engines, plan.files) == ((), ())
    before = snapshot(registry.objects)
    assert remove_loose(registry, plan) == Removed((), (), ())
    assert snapshot(registry.objects) == before


@pytest.mark.parametrize(
    ("written", "created", "stays"),
    [
        (LONG_AGO, "2020-01-01T00:00:00+00:00", False),
        (LONG_AGO, NOW.isoformat(), True),
        (NOW, "2020-01-01T00:00:00+00:00", True),
        (NOW - timedelta(days=29, hours=23), "2020-01-01", True),
        (NOW - timedelta(days=30, hours=1), "2020-01-01", False),
        (LONG_AGO, (NOW - timedelta(days=29, hours=23)).replace(tzinfo=None).isoformat(), True),
    ],
    ids=["old", "created now", "written now", "29 days", "30 days", "29 days, without a zone"],
)
def test_the_age_of_an_engine_is_that_of_its_manifest_or_of_its_registration_whichever_is_younger(
    registry: Registry, engines: Engines, written: datetime, created: str, *, stays: bool
) -> None:
    registry.engines.publish(engines.manifests[0].model_copy(update={"created_at": created}), engines.folders[0])
    set_age(registry, written)
    plan = plan_removal(registry, NOW - timedelta(days=30))
    assert names(plan) == ([] if stays else [engines.id_of(0)])
    assert len(plan.files) == (0 if stays else len(keys_of(engines.manifests[0])))


def test_young_files_of_nobody_and_files_that_enginegate_did_not_write_stay(registry: Registry) -> None:
    old, young, foreign = blob_key("sha256:" + "0" * 64), blob_key("sha256:" + "1" * 64), "blobs/sha256/README.txt"
    for key in (old, young, foreign):
        registry.objects.create(key, b"12345")
    set_age(registry, LONG_AGO)
    os.utime(registry.objects.root / young)
    plan = plan_removal(registry, NOW - timedelta(days=30))
    assert [(entry.key, entry.size_bytes) for entry in plan.files] == [(old, 5)]
    assert {one.name: one.hold for one in plan.kept_files} == {young: Hold.AGE, foreign: Hold.FOREIGN}
    remove_loose(registry, plan)
    assert keys_below(registry, "") == {young, foreign}


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flipped_manifest(registry: Registry, engines: Engines) -> None:
    flip_a_bit(local(registry, manifest_key(engines.manifests[2].cell)))


def swapped_manifest(registry: Registry, engines: Engines) -> None:
    other = local(registry, manifest_key(engines.manifests[2].cell))
    other.write_bytes(local(registry, manifest_key(engines.manifests[1].cell)).read_bytes())


def rewritten_manifest(registry: Registry, engines: Engines, **changes: Any) -> None:
    manifest = engines.manifests[2].model_copy(update=changes)
    path = local(registry, manifest_key(manifest.cell))
    path.write_bytes(registry.signing.seal("manifest", manifest.model_dump(mode="json")))


def undated_manifest(registry: Registry, engines: Engines) -> None:
    rewritten_manifest(registry, engines, created_at="yesterday")


def manifest_of_fewer_files(registry: Registry, engines: Engines) -> None:
    plan = engines.manifests[2].plan
    rewritten_manifest(registry, engines, plan=plan.model_copy(update={"files": plan.files[:1]}))


def truncated_channel(registry: Registry, _engines: Engines) -> None:
    path = local(registry, CANDIDATE.key)
    path.write_bytes(path.read_bytes()[:-3])


def flipped_channel(registry: Registry, _engines: Engines) -> None:
    flip_a_bit(local(registry, CANDIDATE.key))


def emptied_channel(registry: Registry, _engines: Engines) -> None:
    local(registry, CANDIDATE.key).write_bytes(canonical_json({"moves": []}))


def linked_channel(registry: Registry, _engines: Engines) -> None:
    path = local(registry, CANDIDATE.key)
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))
    path.with_suffix(".old").rename(registry.objects.root / "elsewhere")


def lost_engine(registry: Registry, engines: Engines) -> None:
    local(registry, manifest_key(engines.manifests[0].cell)).unlink()


def foreign_manifest(registry: Registry, _engines: Engines) -> None:
    registry.objects.create("engines/tiny/notes.txt", b"")


def file_beside_a_manifest(registry: Registry, engines: Engines) -> None:
    registry.objects.create(f"{manifest_key(engines.manifests[2].cell)}.bak", b"")


def foreign_channel(registry: Registry, _engines: Engines) -> None:
    registry.objects.create("channels/tiny/cpu/blessed.json", b"{}")


DAMAGES: dict[Callable[[Registry, Engines], None], str] = {
    flipped_manifest: "tiny-cpu-fp32@cccccccccccc: its manifest",
    swapped_manifest: "tiny-cpu-fp32@cccccccccccc: its manifest is that of tiny-cpu-fp32@bbbbbbbbbbbb",
    undated_manifest: "tiny-cpu-fp32@cccccccccccc: created_at: 'yesterday' is no date",
    manifest_of_fewer_files: "tiny-cpu-fp32@cccccccccccc: plan: the list of files does not match sha256:",
    truncated_channel: "channel candidate of tiny for cpu is damaged",
    flipped_channel: "channel candidate of tiny for cpu",
    emptied_channel: "channel candidate of tiny for cpu has lost its history",
    linked_channel: "candidate.json: is a link",
    lost_engine: "tiny-cpu-fp32@aaaaaaaaaaaa is not registered, and candidate of tiny for cpu points at it",
    foreign_manifest: "engines/tiny/notes.txt",
    file_beside_a_manifest: "manifest.json.bak",
    foreign_channel: "channels/tiny/cpu/blessed.json",
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.items(), ids=[one.__name__ for one in DAMAGES])
def test_while_anything_cannot_be_read_nothing_is_removed(
    registry: Registry, engines: Engines, damage: Callable[[Registry, Engines], None], words: str
) -> None:
    engines.register(registry, 0, 1, 2, 3)
    promote(registry, engines.manifests[0])
    damage(registry, engines)
    before = {path: path.read_bytes() for path in registry.objects.root.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError, match="nothing is removed") as caught:
        plan_removal(registry, ALL_OLD)
    assert words in str(caught.value)
    assert caught.value.exit_code == 5
    assert {path: path.read_bytes() for path in before} == before


def test_everything_that_is_wrong_is_told_at_once(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1, 2)
    promote(registry, engines.manifests[0])
    for damage in (flipped_manifest, flipped_channel, foreign_manifest):
        damage(registry, engines)
    with pytest.raises(RefusedError, match=r"^3 things are not as they should be") as caught:
        plan_removal(registry, ALL_OLD)
    assert all(DAMAGES[damage] in str(caught.value) for damage in (flipped_manifest, flipped_channel, foreign_manifest))


def test_what_a_trusted_key_did_not_sign_is_not_read(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0)
    key = CryptoSigner(Ed25519PrivateKey.generate())
    trusting = Registry(registry.objects, Signing(key, trusted=trust(key)))
    with pytest.raises(RefusedError, match=f"{engines.id_of(0)}: its manifest is signed by nobody"):
        plan_removal(trusting, ALL_OLD)


@pytest.mark.parametrize("damage", [flipped_channel, linked_channel])
def test_a_channel_that_is_damaged_between_plan_and_removal_stops_it(
    registry: Registry, engines: Engines, damage: Callable[[Registry, Engines], None]
) -> None:
    engines.register(registry, 0, 1)
    promote(registry, engines.manifests[0])
    plan = plan_removal(registry, ALL_OLD)
    damage(registry, engines)
    files = keys_below(registry, "blobs/") | keys_below(registry, "engines/")
    with pytest.raises(RefusedError, match="nothing is removed"):
        remove_loose(registry, plan)
    assert keys_below(registry, "blobs/") | keys_below(registry, "engines/") == files


def test_a_manifest_that_is_damaged_between_plan_and_removal_keeps_every_file(
    registry: Registry, engines: Engines
) -> None:
    engines.register(registry, 0, 2)
    promote(registry, engines.manifests[2])
    plan = plan_removal(registry, ALL_OLD)
    flipped_manifest(registry, engines)
    files = keys_below(registry, "blobs/")
    with pytest.raises(RefusedError, match=DAMAGES[flipped_manifest]):
        remove_loose(registry, plan)
    assert keys_below(registry, "blobs/") == files


def test_an_engine_that_was_promoted_after_the_plan_stays_whole(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1)
    plan = plan_removal(registry, ALL_OLD)
    promote(registry, engines.manifests[0], ChannelName.STAGING)
    removed = remove_loose(registry, plan)
    assert [one.engine_id for one in removed.spared] == [engines.id_of(0)]
    assert [one.engine_id for one in removed.engines] == [engines.id_of(1)]
    assert registry.engines.verify(engines.manifests[0].cell) == []


class Meddled(LocalObjects):
    """A folder in which something happens right before an object below `prefix` is deleted, once."""

    def __init__(self, root: Path, prefix: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._prefix, self._meanwhile = prefix, [meanwhile]

    def delete(self, key: str) -> None:
        if key.startswith(self._prefix) and self._meanwhile:
            self._meanwhile.pop()()
        super().delete(key)


def meddled(registry: Registry, prefix: str, meanwhile: Callable[[], object]) -> Registry:
    return Registry(Meddled(registry.objects.root, prefix, meanwhile), Signing())


def test_an_engine_that_is_promoted_right_before_its_manifest_goes_gets_it_back(
    registry: Registry, engines: Engines
) -> None:
    engines.register(registry, 0)
    plan = plan_removal(registry, ALL_OLD)
    before = local(registry, manifest_key(engines.manifests[0].cell)).read_bytes()
    other = meddled(registry, "engines/", lambda: promote(registry, engines.manifests[0]))
    removed = remove_loose(other, plan)
    assert (removed.engines, removed.files) == ((), ())
    assert removed.spared == (engines.manifests[0].cell,)
    assert local(registry, manifest_key(engines.manifests[0].cell)).read_bytes() == before
    assert registry.engines.verify(engines.manifests[0].cell) == []


def test_where_upkeep_may_only_delete_an_engine_that_was_promoted_is_named_and_its_files_stay(
    registry: Registry, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.register(registry, 0)
    plan = plan_removal(registry, ALL_OLD)
    files = keys_below(registry, "blobs/")
    other = meddled(registry, "engines/", lambda: promote(registry, engines.manifests[0]))

    def deny(_key: str, _content: bytes) -> bool:
        raise InputError("access denied")

    monkeypatch.setattr(other.objects, "create", deny)
    with pytest.raises(RefusedError, match=r"promoted while it was removed.*engines/tiny/.*bucket's versions"):
        remove_loose(other, plan)
    assert keys_below(registry, "blobs/") == files


def test_an_engine_that_was_registered_after_the_plan_keeps_the_old_files_that_it_found(
    registry: Registry, engines: Engines
) -> None:
    engines.register(registry, 0)
    plan = plan_removal(registry, ALL_OLD)
    engines.register(registry, 1)  # which shares files with the one that goes
    removed = remove_loose(registry, plan)
    shared = keys_of(engines.manifests[0]) & keys_of(engines.manifests[1])
    assert len(shared) > 3
    assert {entry.key for entry in removed.files} == keys_of(engines.manifests[0]) - shared
    assert registry.engines.verify(engines.manifests[1].cell) == []


def test_an_engine_that_was_registered_anew_after_the_plan_stays(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0)
    set_age(registry, LONG_AGO)
    plan = plan_removal(registry, NOW - timedelta(days=30))
    registry.objects.delete(manifest_key(engines.manifests[0].cell))
    engines.register(registry, 0)
    removed = remove_loose(registry, plan)
    assert removed == Removed((), (), (engines.manifests[0].cell,))
    assert registry.engines.verify(engines.manifests[0].cell) == []


def test_a_file_that_was_written_anew_after_the_plan_stays(registry: Registry) -> None:
    key = blob_key("sha256:" + "0" * 64)
    registry.objects.create(key, b"12345")
    set_age(registry, LONG_AGO)
    plan = plan_removal(registry, NOW - timedelta(days=30))
    registry.objects.delete(key)
    registry.objects.create(key, b"12345")
    assert remove_loose(registry, plan).files == ()
    assert keys_below(registry, "") == {key}


def test_an_engine_that_is_registered_while_its_files_go_is_named_and_converting_again_mends_it(
    registry: Registry, engines: Engines
) -> None:
    engines.register(registry, 0)
    plan = plan_removal(registry, ALL_OLD)
    shared = blob_key(engines.manifests[1].onnx.files[0].digest)
    other = meddled(registry, shared, lambda: engines.register(registry, 1))
    with pytest.raises(RefusedError, match=f"^{engines.id_of(1)}: registered while files were removed.*convert again"):
        remove_loose(other, plan)
    assert registry.engines.verify(engines.manifests[1].cell) != []
    assert plan_removal(registry, ALL_YOUNG).incomplete[0].startswith(f"{engines.id_of(1)} lacks onnx: model.onnx")
    engines.register(registry, 1)
    assert registry.engines.verify(engines.manifests[1].cell) == []
    assert plan_removal(registry, ALL_YOUNG).incomplete == ()


def test_a_plan_that_was_carried_out_does_nothing_the_second_time(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1)
    promote(registry, engines.manifests[0])
    plan = plan_removal(registry, ALL_OLD)
    remove_loose(registry, plan)
    before = snapshot(registry.objects)
    assert remove_loose(registry, plan) == Removed((), (), ())
    assert snapshot(registry.objects) == before


def test_what_another_gc_removes_after_the_listing_is_no_fault(registry: Registry, engines: Engines) -> None:
    engines.register(registry, 0, 1)
    survey = survey_registry(registry.objects)
    registry.objects.delete(manifest_key(engines.manifests[0].cell))
    found, faults = read_manifests(registry, survey.engines)
    assert [one.engine_id for one in found] == [engines.id_of(1)]
    assert faults == []


def collect(place: Place) -> str:
    """A whole gc in a process of its own."""
    registry = Registry(place.open(), Signing())
    return str(len(remove_loose(registry, plan_removal(registry, ALL_OLD)).engines))


@pytest.mark.hardship
def test_of_two_gcs_at_once_neither_does_harm(place: Place, engines: Engines) -> None:
    registry = Registry(place.open(), Signing())
    for number in range(3 if numbers().is_hard else 1):
        engines.register(registry, 0, 1, 2, 3)
        promote(registry, engines.manifests[number])
        answers = race([functools.partial(collect, place)] * 2)
        assert all(answer.isdigit() for answer in answers), answers
        assert sum(map(int, answers)) >= 3 - number  # both may tell of one engine
        kept = engines.manifests[: number + 1]
        assert registered(registry) == [one.engine_id for one in kept]
        assert [registry.engines.verify(one.cell) for one in kept] == [[]] * len(kept)
        assert keys_below(registry, "blobs/") == set.union(*map(keys_of, kept))


def publish(root: Path, engines: Engines) -> str:
    """Register engine 1, and say what it lacks right then."""
    registry = Registry(LocalObjects(root), Signing())
    engines.register(registry, 1)
    return "registered"


def collect_in(root: Path) -> str:
    registry = Registry(LocalObjects(root), Signing())
    remove_loose(registry, plan_removal(registry, ALL_YOUNG))
    return "removed"


@pytest.mark.hardship
def test_racing_a_publisher_no_engine_loses_a_file_unless_gc_says_so(engines: Engines, tmp_path: Path) -> None:
    template = Registry(LocalObjects(tmp_path / "template"), Signing())
    engines.register(template, 0, 1, 3)
    promote(template, engines.manifests[3])
    template.objects.delete(manifest_key(engines.manifests[1].cell))
    set_age(template, LONG_AGO)  # engine 0 may go, and the plan that engine 1 left and that its publisher finds
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        shutil.copytree(template.objects.root, root)
        answers = race([functools.partial(publish, root, engines), functools.partial(collect_in, root)])
        registry = Registry(LocalObjects(root), Signing())
        assert answers[0] == "registered"
        assert registry.engines.verify(engines.manifests[3].cell) == []
        lost = registry.engines.missing_files(engines.manifests[1])
        assert answers[1] in {"removed", "RefusedError"}
        if lost:
            assert answers[1] == "RefusedError" or plan_removal(registry, ALL_YOUNG).incomplete
            engines.register(registry, 1)
        assert registry.engines.verify(engines.manifests[1].cell) == []


def one_by_one(work: Callable[[Any], Any], items: list[Any]) -> None:
    """In place of threads, so that a gc makes its changes in one order."""
    for item in items:
        work(item)


@pytest.mark.hardship
def test_killed_at_any_change_a_gc_leaves_whole_engines_and_the_next_one_ends_its_work(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.registry.upkeep.in_threads", one_by_one)
    template = Registry(LocalObjects(tmp_path / "template"), Signing())
    engines.register(template, 0, 1, 2)
    promote(template, engines.manifests[1])
    set_age(template, LONG_AGO)
    seen = set()
    copy = functools.partial(shutil.copytree, template.objects.root)
    for folder in kill_points(collect_in, tmp_path / "killed", prepare=copy):
        registry = Registry(LocalObjects(folder), Signing())
        left = registered(registry)
        assert engines.id_of(1) in left
        assert [registry.engines.verify(one.cell) for one in engines.manifests if one.engine_id in left] == [[]] * len(
            left
        )
        seen.add((len(left), len(keys_below(registry, "blobs/"))))
        collect_in(folder)
        assert registered(registry) == [engines.id_of(1)]
        assert keys_below(registry, "blobs/") == keys_of(engines.manifests[1])
    assert {left for left, _ in seen} == {1, 2, 3}
    assert len({files for left, files in seen if left == 1}) > 2


@settings(max_examples=15, deadline=None)
@given(
    old=st.lists(st.booleans(), min_size=4, max_size=4),
    moves=st.lists(st.tuples(st.sampled_from(ChannelName), st.integers(0, 3)), max_size=5),
)
def test_exactly_what_is_old_and_was_never_named_goes(
    engines: Engines,
    full: Registry,
    tmp_path_factory: pytest.TempPathFactory,
    old: list[bool],
    moves: list[tuple[ChannelName, int]],
) -> None:
    registry = Registry(LocalObjects(tmp_path_factory.mktemp("registry") / "copy"), Signing())
    shutil.copytree(full.objects.root, registry.objects.root)
    for name, number in moves:
        promote(registry, engines.manifests[number], name)
    set_age(registry, LONG_AGO)
    for number, manifest in enumerate(engines.manifests):
        if not old[number]:
            os.utime(registry.objects.root / manifest_key(manifest.cell))
    named = {number for _, number in moves}
    kept = [one for number, one in enumerate(engines.manifests) if number in named or not old[number]]
    remove_loose(registry, plan_removal(registry, NOW - timedelta(days=30)))
    assert registered(registry) == [one.engine_id for one in kept]
    assert keys_below(registry, "blobs/") == set().union(*map(keys_of, kept))


def test_an_empty_registry_has_nothing_to_remove(registry: Registry) -> None:
    plan = plan_removal(registry, ALL_OLD)
    assert (plan.engines, plan.files, plan.kept, plan.kept_files) == ((), (), (), ())
    assert remove_loose(registry, plan) == Removed((), (), ())


@pytest.mark.parametrize(
    ("text", "fits"),
    [("essay-scorer", True), ("a" * 64, True), ("a" * 65, False), ("../x", False), ("", False), ("a\n", False)],
)
def test_the_names_of_models(text: str, *, fits: bool) -> None:
    assert is_model_name(text) is fits


def test_threads_keep_the_order_tell_progress_and_pass_an_error_on() -> None:
    told: list[tuple[int, int]] = []
    assert in_threads(lambda number: number * 2, range(20), lambda *progress: told.append(progress)) == [
        number * 2 for number in range(20)
    ]
    assert told == [(number, 20) for number in range(1, 21)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda number: 1 // number, [1, 0])


class Elsewhere(MemoryObjects):
    """Objects of a server whose clock is 40 days behind this host's."""

    def now(self) -> datetime:
        return super().now() - timedelta(days=40)

    def list(self, prefix: str) -> Iterator[Entry]:
        for entry in super().list(prefix):
            yield replace(entry, modified=entry.modified - timedelta(days=40))


def test_ages_are_told_by_the_clock_of_the_store_whatever_this_host_believes(engines: Engines) -> None:
    registry = Registry(Elsewhere(), Signing())
    engines.register(registry, 0)
    assert moment_ago(registry.objects, timedelta(days=30)) < datetime.now(timezone.utc) - timedelta(days=69)
    (manifest,) = registry.objects.list("engines/")
    assert manifest.modified >= moment_ago(registry.objects, timedelta(minutes=1)), "it is seconds old"


def test_a_clock_that_was_set_back_removes_nothing(place: Place, engines: Engines) -> None:
    registry = Registry(place.open(), Signing())
    engines.register(registry, 0)
    (newest,) = sorted(registry.objects.list(""), key=lambda entry: entry.modified)[-1:]

    class SetBack:
        address, list = registry.objects.address, staticmethod(registry.objects.list)

        def now(self) -> datetime:
            return newest.modified - timedelta(minutes=6)

    with pytest.raises(RefusedError, match="its clock was set back, so nothing is removed"):
        moment_ago(SetBack(), timedelta(days=0))  # type: ignore[arg-type]
