from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tasks.artifact import Artifact, ArtifactFile
from tasks.errors import RefusedError
from tasks.store.blobs import BlobFolder
from tasks.store.digests import digest_file

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "blobs")


def take(blobs: BlobFolder, content: bytes, name: str = "a") -> ArtifactFile:
    path = blobs.root.parent / "new"
    path.write_bytes(content)
    return blobs.take(path, name)


def artifact(*files: ArtifactFile) -> Artifact:
    return Artifact(digest=DIGEST, files=files)


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_file_lies_under_its_digest_read_only_and_its_source_is_gone(blobs: BlobFolder) -> None:
    file = take(blobs, b"content")
    path = blobs.path(file.digest)
    assert path == blobs.root / "sha256" / file.digest[7:9] / file.digest[9:]
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o444
    assert (digest_file(path), file.path) == ((file.digest, file.size_bytes), "a")
    assert not (blobs.root.parent / "new").exists()


def test_the_same_content_twice_is_one_file(blobs: BlobFolder) -> None:
    first = take(blobs, b"content")
    inode = blobs.path(first.digest).stat().st_ino
    assert take(blobs, b"content", "b") == first.model_copy(update={"path": "b"})
    assert blobs.path(first.digest).stat().st_ino == inode
    assert not (blobs.root.parent / "new").exists()


@pytest.mark.parametrize("damage", [b"", b"contenT", b"content and more"])
def test_a_damaged_file_is_refused_and_taken_again(blobs: BlobFolder, tmp_path: Path, damage: bytes) -> None:
    file = take(blobs, b"content")
    overwrite(blobs.path(file.digest), damage)
    with pytest.raises(RefusedError, match=rf"a \({file.digest}\) has digest sha256:"):
        blobs.lay(artifact(file), tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
    take(blobs, b"content")
    assert (blobs.lay(artifact(file), tmp_path / "out") / "a").read_bytes() == b"content"


def test_a_missing_file_is_refused_by_name(blobs: BlobFolder, tmp_path: Path) -> None:
    file = take(blobs, b"content", "plan/engine.onnx")
    blobs.path(file.digest).unlink()
    assert (blobs.holds(file), blobs.check(file)) == (False, "is missing")
    with pytest.raises(RefusedError, match=r"plan/engine.onnx .* is missing"):
        blobs.lay(artifact(file), tmp_path / "out")


def test_holding_looks_at_the_size_and_checking_at_every_byte(blobs: BlobFolder) -> None:
    file = take(blobs, b"content")
    assert (blobs.holds(file), blobs.check(file)) == (True, None)
    overwrite(blobs.path(file.digest), b"contenT")
    assert blobs.holds(file)
    assert str(blobs.check(file)).startswith("has digest sha256:")
    overwrite(blobs.path(file.digest), b"conten")
    assert not blobs.holds(file)


def test_files_laid_out_are_read_only_in_their_folders(blobs: BlobFolder, tmp_path: Path) -> None:
    files = [take(blobs, b"one", "a/b/c"), take(blobs, b"two", "d"), take(blobs, b"one", "e")]
    out = blobs.lay(artifact(*files), tmp_path / "deep" / "out")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {"a/b/c", "d", "e"}
    assert all(path.stat().st_mode & 0o222 == 0 for path in out.rglob("*") if path.is_file())


def test_across_file_systems_a_copy_is_laid_that_cannot_reach_the_blob(
    blobs: BlobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    file = take(blobs, b"content")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copy = blobs.lay(artifact(file), tmp_path / "out") / "a"
    assert copy.stat().st_mode & 0o222 == 0
    overwrite(copy, b"damage")
    assert blobs.check(file) is None


def test_laying_over_another_artifact_is_refused_and_harms_neither(blobs: BlobFolder, tmp_path: Path) -> None:
    one, other = take(blobs, b"one"), take(blobs, b"other")
    blobs.lay(artifact(one), tmp_path / "out")
    with pytest.raises(FileExistsError):
        blobs.lay(artifact(other), tmp_path / "out")
    assert (blobs.check(one), blobs.check(other)) == (None, None)
