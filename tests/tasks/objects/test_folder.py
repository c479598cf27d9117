from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RefusedError, StageError
from tasks.objects import folder as local
from tasks.objects.folder import LocalObjects
from tasks.objects.interface import ChangedError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"content"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def silent(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


def test_an_object_is_a_read_only_file_of_its_key_and_its_tag_its_digest(objects: LocalObjects) -> None:
    objects.create("a/b", CONTENT)
    path = objects.root / "a" / "b"
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert objects.replace("a/c", CONTENT, None) == DIGEST.removeprefix("sha256:")
    assert objects.address == str(objects.root)


def test_a_file_is_copied_in_and_out_so_that_no_later_change_reaches_the_store(
    objects: LocalObjects, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    objects.upload("a", tmp_path / "in", DIGEST, silent)
    (tmp_path / "in").write_bytes(b"changed")
    objects.download("a", tmp_path / "out", DIGEST, silent)
    (tmp_path / "out").write_bytes(b"changed")
    objects.download("a", tmp_path / "again", DIGEST, silent)
    assert (tmp_path / "again").read_bytes() == CONTENT


@pytest.mark.parametrize("key", ["out/secret", "link"])
def test_no_link_leads_out_of_the_store(objects: LocalObjects, tmp_path: Path, key: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(CONTENT)
    objects.root.mkdir(exist_ok=True)
    (objects.root / "out").symlink_to(tmp_path / "elsewhere")
    (objects.root / "link").symlink_to(tmp_path / "elsewhere" / "secret")
    for use in (
        lambda: objects.read(key),
        lambda: objects.create(key, b""),
        lambda: objects.create(f"{key}2" if key != "link" else key, b""),
        lambda: objects.replace(key, b"", DIGEST.removeprefix("sha256:")),
        lambda: objects.download(key, tmp_path / "to", DIGEST, silent),
        lambda: objects.delete(key),
        lambda: objects.size(key),
    ):
        with pytest.raises(RefusedError, match=r"is a link, or lies behind one"):
            use()
    assert list(objects.list("")) == []
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["secret"]
    assert (tmp_path / "elsewhere" / "secret").read_bytes() == CONTENT


def test_a_store_may_itself_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    objects = LocalObjects(tmp_path / "link")
    assert objects.create("a/b", CONTENT)
    assert [entry.key for entry in objects.list("a/")] == ["a/b"]
    assert LocalObjects(tmp_path / "real").size("a/b") == 7


def test_an_object_is_never_the_folder_of_another(objects: LocalObjects) -> None:
    objects.create("a/b", CONTENT)
    with pytest.raises(RefusedError, match=r"key 'a/b/c': a part of it is an object already"):
        objects.create("a/b/c", CONTENT)
    with pytest.raises(RefusedError, match=r"key 'a': objects lie below it"):
        objects.create("a", CONTENT)
    with pytest.raises(ChangedError):
        objects.replace("a", CONTENT, "tag")
    objects.delete("a")
    assert objects.read("a/b/c") is None
    assert [entry.key for entry in objects.list("")] == ["a/b"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StageError, match=r"file: cannot create 'a': .*; check the folder, its rights and free space"):
        LocalObjects(tmp_path / "file").create("a", CONTENT)


def test_a_lock_that_is_not_given_back_is_not_waited_for_without_end(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCK_S", 0.05)
    tag = objects.replace("a", b"one", None)
    with objects._locked("a"), pytest.raises(StageError, match=r"cannot replace 'a'"):  # noqa: SLF001 - who hangs
        LocalObjects(objects.root).replace("a", b"two", tag)
    objects.replace("a", b"two", tag)
