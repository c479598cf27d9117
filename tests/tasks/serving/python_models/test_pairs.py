from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.rollout.shards import ArmShard, PairShard, read_shard
from tasks.serving import sampling
from tasks.serving.python_models.pairs import EDGES_MS, MOST_BYTES, Recorder
from tests.tasks.evidence import pair
from tests.tasks.memory_objects import MemoryObjects

if TYPE_CHECKING:
    from pathlib import Path

LONG_S = 1000.0
FOLDER = "rollouts/tiny/cpu/0123456789ab/host-1"


def read(folder: Path, outputs: tuple[str, ...] = ("score",)) -> list[Any]:
    """The files, as the judge's side reads them."""
    objects, found = MemoryObjects(), []
    for path in sorted(folder.iterdir()):
        objects.create(f"{FOLDER}/{path.name}", path.read_bytes())
        found.append(read_shard(objects, f"{FOLDER}/{path.name}", outputs, {1: 0, 2: 1}))
    return found


def pairs_in(folder: Path) -> list[PairShard]:
    return [one for one in read(folder) if isinstance(one, PairShard)]


def arms_in(folder: Path) -> list[Any]:
    return [one.document for one in read(folder) if isinstance(one, ArmShard)]


def test_the_judges_side_reads_what_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "scorer 0/1", LONG_S)
    recorder.add(pair(3, slices={"language": "de"}, inputs={"tokens": np.ones((3, 4))}))
    recorder.add(pair(1, slices={"language": "en"}, inputs={"tokens": np.ones((1, 4))}, noise=True, key=""))
    recorder.count("production", 2, "ab", 1.0)
    recorder.close()
    (shard,) = pairs_in(tmp_path / "e")
    assert shard.columns["latency.canary"].tolist() == [2, 2, 2, 2]
    assert shard.columns["noise"].tolist() == [False, False, False, True]
    assert len(set(shard.columns["request"].tolist())) == 2
    assert shard.slices["language"].tolist() == ["de", "de", "de", "en"]
    assert shard.inputs["tokens"].shape == (4, 4)
    assert shard.groups[3].startswith("request ")
    (document,) = arms_in(tmp_path / "e")
    assert (document.step, document.arms.production.requests, document.arms.canary.requests) == (2, 1, 0)
    names = sorted(path.name for path in (tmp_path / "e").iterdir())
    assert re.fullmatch(r"\d{6}-scorer_0_1-4-[0-9a-f]{16}\.npz", names[0])
    assert re.fullmatch(r"\d{6}-scorer_0_1-arms-[0-9a-f]{16}\.json", names[1])


def test_pairs_of_other_shapes_go_to_files_of_their_own(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    for width in (2, 3, 2):
        recorder.add(pair(production={"score": np.ones((1, width))}, canary={"score": np.ones((1, width))}))
    recorder.close()
    assert sorted(len(shard.columns["time"]) for shard in pairs_in(tmp_path / "e")) == [1, 2]


def test_arms_are_counted_by_step_and_what_failed_has_no_latency(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    recorder.count("canary", 1, "ab", 5.0)
    recorder.count("canary", 2, "ab", 5.0, "error")
    recorder.count("canary", 2, "cd", 5.0, "timeout")
    recorder.count("canary", 2, "", 5.0)
    recorder.count("canary", 2, "", 5.0)
    recorder.count_warm_up("canary", 2)
    recorder.count_lost(2, 4)
    recorder.close()
    first, second = sorted(arms_in(tmp_path / "e"), key=lambda one: one.step)
    assert first.arms.canary.requests == 1
    canary = second.arms.canary
    assert (canary.requests, canary.errors, canary.timeouts, canary.users, canary.warm_up) == (4, 1, 1, 4, 1)
    assert sum(canary.latency_ms.counts) == 2
    assert second.lost_pairs == 4


def test_a_latency_is_counted_between_the_edges_around_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    for ms in (0.0, 1.0, EDGES_MS[100], 1e9):
        recorder.count("production", 1, "", ms)
    recorder.close()
    (document,) = arms_in(tmp_path / "e")
    counts = document.arms.production.latency_ms.counts
    assert (counts[0], counts[-1], counts[101]) == (1, 1, 1)
    middle = next(place for place, count in enumerate(counts) if count and 0 < place < 101)
    assert EDGES_MS[middle - 1] <= 1.0 < EDGES_MS[middle]


def test_the_edges_rise_by_5_percent() -> None:
    assert np.diff(np.log(EDGES_MS)) == pytest.approx(np.log(1.05), abs=1e-3)


def test_files_come_in_their_time_without_another_request(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", 0.01)
    recorder.add(pair())
    while not list(tmp_path.glob("e/[0-9]*.npz")):
        threading.Event().wait(0.01)
    recorder.close()
    assert len(pairs_in(tmp_path / "e")) == 1


def test_a_silent_time_leaves_no_files(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", 0.001)
    threading.Event().wait(0.05)
    recorder.close()
    assert not (tmp_path / "e").exists()


def test_what_has_no_room_is_counted_as_lost(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("a file where the folder should be")
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    large = {"score": np.zeros(MOST_BYTES // 8)}
    assert not recorder.add(pair(production=large, canary=large))
    assert recorder.add(pair())
    recorder.close()
    assert recorder.failures() == 2  # the pairs, and the counts


def test_counts_wait_for_a_disk_that_fails_and_pairs_are_lost(tmp_path: Path) -> None:
    place = tmp_path / "e"
    place.write_text("a file where the folder should be")
    recorder = Recorder(place, "a", 0.01)
    recorder.add(pair())
    recorder.count("production", 2, "ab", 1.0)
    while recorder.failures() < 2:
        threading.Event().wait(0.01)
    place.unlink()
    recorder.close()
    documents = arms_in(place)
    assert sum(one.arms.production.requests for one in documents) == 1
    assert sum(one.lost_pairs for one in documents) == 1
    assert pairs_in(place) == []


def test_a_shard_stays_below_what_a_reader_takes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    outputs = {"score": np.zeros((1, 100_000))}
    while recorder.add(pair(production=outputs, canary=outputs)):
        pass
    recorder.close()
    assert all(path.stat().st_size < 16 << 20 for path in (tmp_path / "e").iterdir())


def test_files_are_readable_by_their_user_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    recorder.add(pair())
    recorder.close()
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "e").iterdir()} == {0o600}


def test_the_same_edges_stand_in_every_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "a", LONG_S)
    recorder.count("production", 1, "", 1.0)
    recorder.count("production", 2, "", 1.0)
    recorder.close()
    edges = [
        json.loads(path.read_text())["arms"]["canary"]["latency_ms"]["edges"] for path in (tmp_path / "e").iterdir()
    ]
    assert edges == [list(EDGES_MS)] * 2


def test_no_more_values_of_a_slice_are_told_apart_than_a_memory_holds() -> None:
    values = sampling.Values()
    found = {values.of("language", {"language": number}) for number in range(1000)}
    assert len(found) == sampling.MOST_VALUES + 1
