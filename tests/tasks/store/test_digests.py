from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.artifact import ArtifactFile
from tasks.store import digests
from tasks.store.digests import (
    artifact_digest,
    canonical_json,
    copy_checked,
    digest_file,
    digest_json,
    digest_once,
)

if TYPE_CHECKING:
    from pathlib import Path

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def file(path: str, character: str, size: int = 1) -> ArtifactFile:
    return ArtifactFile(path=path, digest=f"sha256:{character * 64}", size_bytes=size)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100])
def test_a_file_s_digest_is_its_sha256_at_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(digests, "CHUNK_BYTES", 16)
    content = bytes(range(256))[:size]
    (tmp_path / "f").write_bytes(content)
    assert digest_file(tmp_path / "f") == (f"sha256:{hashlib.sha256(content).hexdigest()}", size)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_canonical_json_is_the_same_in_any_order_of_keys_and_reads_back(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value
    assert digest_json(value) == digest_json(json.loads(canonical_json(value)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_numbers_that_json_has_not_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_an_artifact_s_digest_covers_path_digest_and_size_but_not_the_order() -> None:
    files = [file("a", "1"), file("b", "2")]
    base = artifact_digest(files)
    assert artifact_digest(reversed(files)) == base
    others = [
        [file("c", "1"), file("b", "2")],
        [file("a", "3"), file("b", "2")],
        [file("a", "1", 2), file("b", "2")],
        [file("a", "2"), file("b", "1")],
        files[:1],
        [*files, file("c", "1")],
        [],
    ]
    assert len({base, *map(artifact_digest, others)}) == 1 + len(others)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files as they are read for their digest; those of a test count as old enough to be remembered."""
    read: list[Path] = []

    def count(path: Path) -> tuple[str, int]:
        read.append(path)
        return digest_file(path)

    monkeypatch.setattr(digests, "digest_file", count)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**9))
    return read


def test_a_file_that_did_not_change_is_read_once(tmp_path: Path, readings: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    assert {digest_once(path) for _ in range(5)} == {digest_file(path)[0]}
    assert readings == [path]


def test_a_file_is_read_again_after_any_change_also_one_that_puts_size_and_time_back(
    tmp_path: Path, readings: list[Path]
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before, stat = digest_once(path), path.stat()
    time.sleep(0.05)  # more than a tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_once(path) == digest_file(path)[0] != before
    (tmp_path / "other").write_bytes(b"six")
    (tmp_path / "other").replace(path)
    assert digest_once(path) == digest_file(path)[0]
    assert len(readings) == 3


def test_a_file_that_was_only_just_written_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    stat = path.stat()
    first = digest_once(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_once(path) == digest_file(path)[0] != first


def test_a_copy_is_checked_by_what_was_read_for_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights" * 10**6)
    digest = digest_file(tmp_path / "a")[0]
    assert copy_checked(tmp_path / "a", tmp_path / "b", digest)
    assert digest_file(tmp_path / "b")[0] == digest
    assert not copy_checked(tmp_path / "a", tmp_path / "c", digest_json("another"))
