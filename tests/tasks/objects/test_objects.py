from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError, RefusedError, StageError
from tasks.objects import folder as local
from tasks.objects import interface, s3
from tasks.objects.interface import ChangedError, check_key, check_prefix, is_key
from tests.s3_servers import PAGE
from tests.tasks import memory_objects
from tests.tasks.conftest import place_at

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore
    from tests.tasks.conftest import Place

MIB = 1 << 20
KEY = "engines/scorer/0123456789ab/cpu/fp32/manifest.json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def silent(_done: int, _total: int) -> None:
    pass


def test_an_object_is_created_once_and_never_by_other_content(objects: ObjectStore) -> None:
    assert objects.create(KEY, b"one")
    assert not objects.create(KEY, b"one")
    assert not objects.create(KEY, b"two")
    found = objects.read(KEY)
    assert found is not None
    assert found.content == b"one"
    assert objects.size(KEY) == 3


def test_an_object_that_is_read_says_when_it_was_written_as_a_listing_does(objects: ObjectStore) -> None:
    objects.create(KEY, b"one")
    found, (listed,) = objects.read(KEY), objects.list("")
    assert found is not None
    assert found.modified is not None
    assert abs(found.modified - listed.modified) < timedelta(seconds=1.5), "S3 tells whole seconds in one of the two"


def test_what_is_not_there_is_none(objects: ObjectStore) -> None:
    assert objects.read(KEY) is None
    assert objects.size(KEY) is None
    assert list(objects.list("")) == []
    objects.delete(KEY)
    objects.create("a/b/c", b"")
    assert objects.read("a/b") is None
    assert objects.size("a/b") is None


def test_an_empty_object_is_an_object(objects: ObjectStore, tmp_path: Path) -> None:
    assert objects.create("empty", b"")
    assert objects.size("empty") == 0
    assert objects.upload("other", file_of(tmp_path / "in", b""), digest_of(b""), silent)
    objects.download("other", tmp_path / "out", digest_of(b""), silent)
    assert (tmp_path / "out").read_bytes() == b""


def test_a_replacement_needs_the_tag_that_is_there_now(objects: ObjectStore) -> None:
    objects.create(KEY, b"one")
    first = objects.read(KEY)
    assert first is not None
    second = objects.replace(KEY, b"two", first.tag)
    with pytest.raises(ChangedError, match=r"manifest.json: somebody else wrote or removed it meanwhile"):
        objects.replace(KEY, b"three", first.tag)
    found = objects.read(KEY)
    assert found is not None
    assert (found.content, found.tag) == (b"two", second)
    third = objects.replace(KEY, b"four", second)
    assert third not in {first.tag, second}


def test_a_replacement_of_nothing_needs_nothing_there(objects: ObjectStore) -> None:
    tag = objects.replace(KEY, b"one", None)
    with pytest.raises(ChangedError):
        objects.replace(KEY, b"two", None)
    assert objects.replace(KEY, b"two", tag) != tag


def test_an_object_that_was_removed_is_not_replaced(objects: ObjectStore) -> None:
    tag = objects.replace(KEY, b"one", None)
    objects.delete(KEY)
    with pytest.raises(ChangedError):
        objects.replace(KEY, b"two", tag)
    assert objects.read(KEY) is None
    assert objects.create(KEY, b"three")


@pytest.mark.parametrize("size", [3, 5 * MIB, 5 * MIB + 1, 17 * MIB + 3], ids=["small", "a part", "two parts", "more"])
def test_a_file_goes_up_once_and_comes_down_whole(place: Place, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    objects, source = place.open(part_bytes=5 * MIB), file_of(tmp_path / "in", content)
    up: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []
    checked: list[tuple[int, int]] = []
    assert objects.upload("blobs/a", source, digest_of(content), lambda done, total: up.append((done, total)))
    assert not objects.upload("blobs/a", source, digest_of(content), silent)
    assert objects.size("blobs/a") == size
    objects.download("blobs/a", tmp_path / "out", digest_of(content), lambda done, total: down.append((done, total)))
    objects.check("blobs/a", digest_of(content), lambda done, total: checked.append((done, total)))
    assert (tmp_path / "out").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "objects") == ["in", "out"]
    for told in (up, down, checked):
        assert told == sorted(told)
        assert told[-1] == (size, size)


@pytest.mark.parametrize("size", [10, 11 * MIB], ids=["small", "parts"])
def test_a_file_of_another_digest_is_not_uploaded(place: Place, tmp_path: Path, size: int) -> None:
    objects = place.open(part_bytes=5 * MIB)
    with pytest.raises(RefusedError, match=r"in: should have digest sha256:.*, but has sha256:"):
        objects.upload("a", file_of(tmp_path / "in", b"x" * size), digest_of(b"y" * size), silent)
    assert objects.size("a") is None
    assert list(objects.list("")) == []


@pytest.mark.parametrize("size", [10, 11 * MIB], ids=["small", "parts"])
def test_an_object_of_another_digest_leaves_no_file(place: Place, tmp_path: Path, size: int) -> None:
    objects, content = place.open(part_bytes=5 * MIB), bytearray(os.urandom(size))
    promised = digest_of(content)
    content[size // 2] ^= 16
    objects.upload("a", file_of(tmp_path / "in", content), digest_of(content), silent)
    (tmp_path / "to").mkdir()
    with pytest.raises(RefusedError, match=r"a: should have digest sha256:.*, but has sha256:.*damaged or swapped"):
        objects.download("a", tmp_path / "to" / "out", promised, silent)
    with pytest.raises(RefusedError, match=r"a: should have digest sha256:.*, but has sha256:.*damaged or swapped"):
        objects.check("a", promised, silent)
    assert list((tmp_path / "to").iterdir()) == []


def test_an_object_that_is_missing_leaves_no_file(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(RefusedError, match=r"blobs/a: is missing"):
        objects.download("blobs/a", tmp_path / "to" / "out", digest_of(b""), silent)
    with pytest.raises(RefusedError, match=r"blobs/a: is missing"):
        objects.check("blobs/a", digest_of(b""), silent)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_download_writes_over_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    objects.create("a", b"new")
    with pytest.raises(RefusedError, match=r"out: exists already"):
        objects.download("a", file_of(tmp_path / "out", b"old"), digest_of(b"new"), silent)
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_large_object_is_not_read_into_memory(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface.MAX_READ_BYTES == 16 * MIB
    for module in (local, memory_objects, s3):
        monkeypatch.setattr(module, "MAX_READ_BYTES", MIB)
    objects.create("fits", b"x" * MIB)
    objects.create("large", b"x" * (MIB + 1))
    assert objects.read("fits") is not None
    with pytest.raises(RefusedError, match=r"large: has more than 1 MiB, too much to be read; download it"):
        objects.read("large")


def test_a_listing_has_the_keys_that_start_with_a_prefix_in_order(objects: ObjectStore) -> None:
    keys = ["a/b/c", "a/b-1", "a/b.json", "a/bc/d", "ab", "b/a"]
    for number, key in enumerate(keys):
        objects.create(key, b"x" * number)
    found = list(objects.list(""))
    assert [entry.key for entry in found] == sorted(keys)
    assert {entry.key: entry.size_bytes for entry in found} == {key: number for number, key in enumerate(keys)}
    now = datetime.now(timezone.utc)
    assert all(timedelta(minutes=-1) < now - entry.modified < timedelta(minutes=5) for entry in found)
    for prefix in ("a", "a/", "a/b", "a/b/", "b/a", "c", "a/b/c/d"):
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert [entry.key for entry in objects.list(prefix)] == expected, prefix


def test_a_removed_object_is_not_listed(objects: ObjectStore) -> None:
    for key in ("a/b", "a/c"):
        objects.create(key, b"")
    objects.delete("a/b")
    assert [entry.key for entry in objects.list("a/")] == ["a/c"]


def test_a_listing_of_more_than_a_page_has_every_key_once(place: Place) -> None:
    objects, page = place.open(), 1000 if place.kind == "radosgw" else PAGE
    keys = [f"page/{number:04}" for number in range(page + 3)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda key: objects.create(key, b""), keys))
    assert [entry.key for entry in objects.list("page/")] == keys


BAD = [
    *("", "/", "/etc/passwd", "a/", "a//b", "..", "../a", "a/../b", "a/..", ".", "./a", "a/.", ".scratch/a", "a/.b"),
    *("a\0b", "a\nb", "a b", "a\\b", "ä", "~", "a?b", "x" * 256, "/".join(["x" * 99] * 9)),
]


@pytest.mark.parametrize("key", BAD)
def test_a_key_that_could_leave_the_store_is_refused(objects: ObjectStore, tmp_path: Path, key: str) -> None:
    path = file_of(tmp_path / "in", b"")
    for use in (
        lambda: objects.create(key, b""),
        lambda: objects.upload(key, path, digest_of(b""), silent),
        lambda: objects.read(key),
        lambda: objects.replace(key, b"", None),
        lambda: objects.download(key, tmp_path / "out", digest_of(b""), silent),
        lambda: objects.size(key),
        lambda: objects.delete(key),
    ):
        with pytest.raises(InputError, match=r"key "):
            use()
    assert [found.name for found in tmp_path.rglob("*")] in (["in"], ["in", "objects", ".scratch"], ["objects", "in"])


@given(st.text(alphabet=st.sampled_from("ab./_=@+-\0~ \n"), max_size=12))
def test_a_key_is_one_exactly_if_its_path_stays_visible_and_inside(key: str) -> None:
    parts = key.split("/")
    allowed = set("ab._=@+-")
    good = all(part and not part.startswith(".") and set(part) <= allowed for part in parts)
    assert is_key(key) == good
    if good:
        assert check_key(key) == key
        assert check_prefix(f"{key}/") == f"{key}/"


@pytest.mark.parametrize("prefix", ["..", "/", "a//", "a/../", "a b", ".scratch"])
def test_a_listing_of_what_no_key_starts_with_is_refused(objects: ObjectStore, prefix: str) -> None:
    with pytest.raises(InputError, match=r"key "):
        list(objects.list(prefix))


def test_the_time_is_that_which_dates_the_objects(objects: ObjectStore) -> None:
    before = objects.now()
    objects.create(KEY, b"one")
    (entry,) = objects.list("")
    assert before - timedelta(seconds=1) <= entry.modified <= objects.now() + timedelta(seconds=1)
    assert objects.now().utcoffset() == timedelta(0)


def be_full(*_arguments: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_as_the_one_that_is_written_to(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = place.open()
    objects.create("a", b"content")
    (tmp_path / "host").mkdir()
    monkeypatch.setattr("tasks.objects.files._write_all", be_full)
    with pytest.raises(StageError) as caught:
        objects.download("a", tmp_path / "host" / "out", digest_of(b"content"), silent)
    expected = f"{tmp_path / 'host'}: cannot be written: No space left on device; make room on its disk"
    assert str(caught.value) == expected


def test_a_store_s_own_disk_that_fails_is_told_as_the_store_s(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = place_at("local", request, tmp_path).open()
    objects.create("a", b"content")

    def chunks(*_arguments: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tasks.objects.folder.chunks_of", chunks)
    with pytest.raises(StageError, match=r"objects: cannot download 'a': Input/output error; check the folder"):
        objects.download("a", tmp_path / "out", digest_of(b"content"), silent)
