from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.rollout import shards
from tasks.rollout.shards import ArmShard, PairShard, RefusedFile, in_order, read_shard
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.traffic import arms_document, npz, pair_columns

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "rollouts/tiny/cpu/0123456789ab/host-1/120000-a-8-00ff.npz"
ARMS = "rollouts/tiny/cpu/0123456789ab/host-1/120000-a-arms-00ff.json"
STEPS = {1: 0, 2: 1}


def read(content: bytes, key: str = KEY, digest: str | None = None) -> Any:
    objects = MemoryObjects()
    objects.create(key, content)
    return read_shard(objects, key, ["score"], STEPS, digest)


def columns(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**pair_columns(8, step=2), **changes}.items() if value is not None}


def test_what_a_host_writes_is_read() -> None:
    shard = read(npz(columns(**{"slice.language": np.array(["de"] * 8), "input.features": np.ones((8, 4))})))
    assert isinstance(shard, PairShard)
    assert set(shard.production) == set(shard.canary) == {"score"}
    assert shard.slices["language"].tolist() == ["de"] * 8
    assert shard.inputs["features"].shape == (8, 4)
    assert shard.groups.tolist() == shard.columns["key"].tolist()


def test_requests_without_a_user_count_alone() -> None:
    shard = read(npz(columns(key=np.array(["", *["ab"] * 7], "U16"))))
    assert isinstance(shard, PairShard)
    assert len(set(shard.groups.tolist())) == 2
    assert shard.groups[0].startswith("request ")


def test_a_canary_that_answers_nonsense_is_evidence_and_no_damage() -> None:
    shard = read(npz(columns(**{"canary.score": np.full(8, np.nan, "f4")})))
    assert isinstance(shard, PairShard)
    failed = columns(failed=np.array(["timeout"] * 8), **{"latency.canary": np.full(8, np.nan, "f4")})
    assert isinstance(read(npz(failed)), PairShard)


DAMAGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is no file of arrays, or damaged"),
    "cut": (lambda: npz(columns())[:-40], "is no file of arrays, or damaged"),
    "flipped": (lambda: _flipped(npz(columns())), "damaged"),
    "pickled": (lambda: npz(columns(key=np.array([{}] * 8, object))), "is no file of arrays, or damaged"),
    "no column": (lambda: npz(columns(request=None)), "lacks the column request"),
    "another kind": (lambda: npz(columns(step=np.full(8, 2.0))), "has a column step of another kind"),
    "two axes": (lambda: npz(columns(noise=np.zeros((8, 1), bool))), "has a column noise of another kind"),
    "fewer rows": (lambda: npz(columns(time=np.zeros(7))), "has not 8 rows in every column"),
    "no time": (lambda: npz(columns(time=np.full(8, np.nan))), "has a time that is none"),
    "no latency": (lambda: npz(columns(**{"latency.canary": np.full(8, -1, "f4")})), "latency.canary that is none"),
    "odd failure": (lambda: npz(columns(failed=np.array(["maybe"] * 8))), "is none of error, timeout"),
    "other step": (lambda: npz(columns(step=np.full(8, 9, "i4"))), "is of step 9, which is none of this rollout"),
    "no output": (lambda: npz(columns(**{"canary.score": None})), "lacks output score of an arm"),
    "other shape": (lambda: npz(columns(**{"canary.score": np.zeros((8, 2))})), "has output score in different shapes"),
    "text": (lambda: npz(columns(**{"canary.score": np.array(["a"] * 8)})), "of another kind than numbers"),
}  # fmt: skip


def _flipped(content: bytes) -> bytes:
    place = content.index(b"production.score.npy") + 200
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(("make", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_of_pairs_is_refused_with_the_reason(make: Callable[[], bytes], words: str) -> None:
    found = read(make())
    assert isinstance(found, RefusedFile)
    assert words in found.why
    assert found.key == KEY


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_BYTES", 1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("time.npy", bytes(2 << 20))
    found = read(buffer.getvalue())
    assert isinstance(found, RefusedFile)
    assert found.why == "has more than 1 MiB of arrays"


def test_counts_of_arms_are_read() -> None:
    shard = read(json.dumps(arms_document(1, production=90, canary=10)).encode(), ARMS)
    assert isinstance(shard, ArmShard)
    assert (shard.document.arms.production.requests, shard.document.arms.canary.requests) == (90, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 9}, "is of step 9"),
        ({"schema_version": 2}, "is no document of arms"),
        ({"arms": {}}, "is no document of arms"),
        ({"lost_pairs": -1}, "is no document of arms"),
        ({"more": 1}, "is no document of arms"),
    ],
)
def test_damaged_counts_are_refused(changes: dict[str, Any], words: str) -> None:
    found = read(json.dumps(arms_document(1, production=1, canary=1) | changes).encode(), ARMS)
    assert isinstance(found, RefusedFile)
    assert words in found.why


def test_a_foreign_name_another_digest_and_a_missing_file_are_refused() -> None:
    assert read(b"x", "rollouts/tiny/cpu/0123456789ab/host-1/notes.txt").why == "has a name that no host gives"
    assert "should have digest sha256:00, but has" in read(npz(columns()), digest="sha256:00").why
    assert read_shard(MemoryObjects(), KEY, ["score"], STEPS).why == "is missing"  # type: ignore[union-attr]


def test_files_are_used_as_they_arrived() -> None:
    objects = MemoryObjects()
    for name in ("b", "a", "c"):
        objects.create(f"rollouts/{name}", b"")
    assert [entry.key[-1] for entry in in_order(list(objects.list("")))] == ["b", "a", "c"]
