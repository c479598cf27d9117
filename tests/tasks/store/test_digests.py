from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.records import ArtifactFile
from tasks.store import digests
from tasks.store.digests import artifact_digest, canonical_json, digest_file, digest_json

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
