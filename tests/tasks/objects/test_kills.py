from __future__ import annotations

import functools
import hashlib
import random
import time
from typing import TYPE_CHECKING

import pytest

from tasks.objects.folder import LocalObjects
from tasks.objects.interface import ChangedError
from tests.hardship import numbers
from tests.tasks.processes import changes_of, is_killed_at, start_fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.objects.interface import ObjectStore
    from tests.tasks.conftest import Place

pytestmark = pytest.mark.hardship

KILLS = numbers().kills
MIB = 1 << 20
OLD, NEW = b"old" * 200_000, b"new" * 400_000
FILE = b"plan" * (12 << 18)  # 12 MiB: three parts
DIGEST = f"sha256:{hashlib.sha256(FILE).hexdigest()}"


def silent(_done: int, _total: int) -> None:
    pass


def kill_during(work: Callable[[], object], within_s: float) -> None:
    """Run `work` in a process, and kill it at a random moment of the first `within_s` seconds."""
    process = start_fork(work)
    time.sleep(random.random() * within_s)  # noqa: S311 - no secret
    process.kill()
    process.join()


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes in a process of its own."""
    started = time.perf_counter()
    process = start_fork(work)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - started


def create(objects: ObjectStore, key: str) -> None:
    objects.create(key, NEW)


def replace(objects: ObjectStore, key: str, tag: str) -> None:
    objects.replace(key, NEW, tag)


def upload(objects: ObjectStore, key: str, path: Path) -> None:
    objects.upload(key, path, DIGEST, silent)


def download(objects: ObjectStore, key: str, path: Path) -> None:
    objects.download(key, path, DIGEST, silent)


def content_of(objects: ObjectStore, key: str) -> bytes | None:
    found = objects.read(key)
    return None if found is None else found.content


def test_a_killed_create_leaves_a_whole_object_or_none(shared_place: Place) -> None:
    unused, objects = (
        shared_place.open(),
        shared_place.open(),
    )  # what was used in this process is not used in a fork of it
    taken = seconds(functools.partial(create, unused, "first"))
    for number in range(KILLS[shared_place.kind]):
        kill_during(functools.partial(create, unused, f"a/{number}"), taken)
        assert content_of(objects, f"a/{number}") in {None, NEW}
        objects.create(f"a/{number}", NEW)  # and it can be done again
        assert content_of(objects, f"a/{number}") == NEW


def test_a_killed_replace_leaves_the_old_object_or_the_new_one(shared_place: Place) -> None:
    unused, objects = shared_place.open(), shared_place.open()
    taken = seconds(functools.partial(replace, unused, "first", objects.replace("first", OLD, None)))
    for number in range(KILLS[shared_place.kind]):
        tag = objects.replace(f"a/{number}", OLD, None)
        kill_during(functools.partial(replace, unused, f"a/{number}", tag), taken)
        found = objects.read(f"a/{number}")
        assert found is not None
        assert found.content in {OLD, NEW}
        objects.replace(f"a/{number}", NEW, found.tag)
        with pytest.raises(ChangedError):
            objects.replace(f"a/{number}", OLD, found.tag if found.content == OLD else "0" * 32)


def test_a_killed_upload_leaves_a_whole_object_or_none(shared_place: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    unused, objects = shared_place.open(part_bytes=5 * MIB), shared_place.open(part_bytes=5 * MIB)
    taken = seconds(functools.partial(upload, unused, "first", tmp_path / "in"))
    for number in range(KILLS[shared_place.kind]):
        kill_during(functools.partial(upload, unused, f"a/{number}", tmp_path / "in"), taken)
        assert content_of(objects, f"a/{number}") in {None, FILE}
        objects.upload(f"a/{number}", tmp_path / "in", DIGEST, silent)
        assert content_of(objects, f"a/{number}") == FILE


def test_a_killed_download_leaves_a_whole_file_or_none_and_the_next_one_clears_up(
    shared_place: Place, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(FILE)
    unused, objects = shared_place.open(part_bytes=5 * MIB), shared_place.open(part_bytes=5 * MIB)
    objects.upload("a", tmp_path / "in", DIGEST, silent)
    taken = seconds(functools.partial(download, unused, "a", tmp_path / "first"))
    for number in range(KILLS[shared_place.kind]):
        folder = tmp_path / f"to-{number}"
        folder.mkdir()
        kill_during(functools.partial(download, unused, "a", folder / "out"), taken)
        if (folder / "out").exists():
            assert (folder / "out").read_bytes() == FILE
            (folder / "out").unlink()
        objects.download("a", folder / "out", DIGEST, silent)
        assert (folder / "out").read_bytes() == FILE
        assert [path.name for path in folder.iterdir()] == ["out"]


def test_an_object_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_call_ends(tmp_path: Path) -> None:
    store, wanted = LocalObjects(tmp_path / "objects"), {"write", "fsync", "link", "replace"}
    store.replace("b", OLD, None)
    tag = store.replace("a", OLD, None)
    made = changes_of(lambda: store.create("c", NEW))
    assert [name for name in made if name in wanted] == ["write", "fsync", "link", "fsync"]
    made = changes_of(lambda: store.replace("a", NEW, tag))
    assert [name for name in made if name in wanted] == ["write", "fsync", "replace", "fsync"]


def test_a_local_store_clears_up_after_the_dead(tmp_path: Path) -> None:
    root, change = tmp_path / "objects", 0
    LocalObjects(root).create("a", OLD)

    def move() -> None:
        store = LocalObjects(root)
        found = store.read("a")
        assert found is not None
        store.replace("a", NEW if found.content == OLD else OLD, found.tag)

    while is_killed_at(change, move):
        change += 1
        found = LocalObjects(root).read("a")
        assert found is not None
        assert found.content in {OLD, NEW}
        assert list((root / ".scratch").iterdir()) == []
    assert change > 10
