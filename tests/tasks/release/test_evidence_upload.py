from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError, StageError
from tasks.release import evidence_upload
from tasks.release.evidence_upload import EvidenceUpload, host_name
from tasks.rollout.shards import ArmShard, read_shard
from tasks.serving.python_models.pairs import Recorder
from tests.tasks.evidence import pair
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.release.rollout_host import ID, OTHER_ID, ROLLOUT

if TYPE_CHECKING:
    from pathlib import Path


def record(root: Path, requests: int = 3, rollout_id: str = ID, **changes: Any) -> None:
    """What a router leaves of so many requests: a file of pairs, and one of counts."""
    recorder = Recorder(root / rollout_id, "scorer_0_0", 1000)
    for _ in range(requests):
        recorder.add(pair(**changes))
        recorder.count("production", 2, "", 1.0)
    recorder.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "rollout"


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def upload(root: Path) -> EvidenceUpload:
    return EvidenceUpload(root, ROLLOUT, "host-1")


def keys(objects: MemoryObjects) -> list[str]:
    return [entry.key for entry in objects.list("rollouts/")]


def test_files_go_where_the_judge_looks_and_are_gone_here(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload
) -> None:
    record(root)
    record(root, rollout_id=OTHER_ID)
    names = sorted(f"{path.parent.name}/host-1/{path.name}" for path in root.glob("*/*"))
    assert upload.run(objects).files == 4
    assert sorted(key.removeprefix("rollouts/tiny/cpu/") for key in keys(objects)) == names
    assert list(root.rglob("*")) == []
    assert upload.run(objects).files == 0


def test_half_written_files_and_those_of_others_stay(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload
) -> None:
    (root / ID).mkdir(parents=True)
    (root / ID / ".120000-a-3-00.npz.partial").write_bytes(b"half")
    (root / "notes").mkdir()
    (root / "notes" / "120000-a-3-00.npz").write_bytes(b"whose?")
    assert upload.run(objects).files == 0
    assert keys(objects) == []


def test_a_registry_that_is_away_has_the_files_wait(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(root)
    with monkeypatch.context() as patch:
        patch.setattr(objects, "create", functools.partial(fail, "away"))
        with pytest.raises(StageError, match="away"):
            upload.run(objects)
    assert (upload.status.waiting, upload.status.lost) == (2, 0)
    assert upload.run(objects).files == 2


def fail(why: str, *_: object) -> bool:
    raise StageError(why)


def test_beyond_the_bound_the_oldest_pairs_give_way_and_are_counted_as_lost(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_upload, "MOST_FILES", 4)
    for number in range(4):
        record(root, requests=number + 1)
        for path in root.glob("*/*"):
            os.utime(path, (path.stat().st_mtime - 10, path.stat().st_mtime - 10))
    with monkeypatch.context() as patch:
        patch.setattr(objects, "create", functools.partial(fail, "away"))
        with pytest.raises(StageError):
            upload.run(objects)
    assert upload.status.lost == 4
    upload.run(objects)
    found = [read_shard(objects, key, ["score"], {2: 0}) for key in keys(objects)]
    documents = [one.document for one in found if isinstance(one, ArmShard)]
    assert len(documents) == len(found)
    assert sum(one.lost_pairs for one in documents) == 1 + 2 + 3 + 4
    assert sum(one.arms.production.requests for one in documents) == 1 + 2 + 3 + 4


def test_killed_between_any_two_writes_nothing_is_lost_or_doubled(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(root)
    expected = {path.name: path.read_bytes() for path in root.glob("*/*")}
    for when in ("before", "after"):
        create = objects.create

        def dying(key: str, content: bytes, when: str = when, create: Any = create) -> bool:
            if when == "after":
                create(key, content)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(objects, "create", dying)
            with pytest.raises(KeyboardInterrupt):
                upload.run(objects)
    upload.run(objects)
    found = {key.rpartition("/")[2]: objects.read(key) for key in keys(objects)}
    assert {name: one.content for name, one in found.items() if one is not None} == expected
    assert list(root.rglob("*")) == []


def test_another_file_of_the_same_name_is_refused_and_kept(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload
) -> None:
    record(root)
    for path in root.glob("*/*"):
        objects.create(f"{ROLLOUT.shards(ID)}host-1/{path.name}", b"another's")
    with pytest.raises(RefusedError, match=r"another file of this name .* give each a --host-name"):
        upload.run(objects)
    assert len(list(root.glob("*/*"))) == 2


def test_a_look_takes_no_more_than_its_part(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_upload, "MOST_A_LOOK", 3)
    record(root)
    record(root)
    found = upload.run(objects)
    assert (found.files, found.waiting) == (3, 1)


@pytest.mark.parametrize(
    ("own", "safe"), [("gpu-7.example.org", "gpu-7.example.org"), (".odd name/ü", "odd-name-"), ("", "host")]
)
def test_a_hosts_own_name_is_made_safe(monkeypatch: pytest.MonkeyPatch, own: str, safe: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: own)
    assert host_name() == safe


@pytest.mark.parametrize("given", ["a/b", "", ".hidden", "x" * 101, "a b"])
def test_a_name_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="--host-name"):
        host_name(given)


def test_a_damaged_file_gives_way_too(
    root: Path, objects: MemoryObjects, upload: EvidenceUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_upload, "MOST_FILES", 0)
    (root / ID).mkdir(parents=True)
    (root / ID / "120000-a-3-00.npz").write_bytes(b"no arrays")
    with monkeypatch.context() as patch:
        patch.setattr(objects, "create", functools.partial(fail, "away"))
        with pytest.raises(StageError):
            upload.run(objects)
    assert upload.status.lost == 1
