from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import Field

from tasks.artifact import Artifact
from tasks.declared import Frozen
from tasks.errors import StageError
from tasks.records import DataArtifact
from tasks.store.local import LocalStore
from tasks.store.stage_cache import artifacts_in, discard_cached, run_cached
from tests.hardship import numbers
from tests.tasks.processes import kill_points, race
from tests.tasks.tiny import put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY: dict[str, object] = {"recipe": 1, "onnx": "sha256:0", "options": {"level": "all"}, "sizes": [1, 2], "none": None}


class Result(Frozen):
    """A stage's result with an artifact at several depths."""

    artifact: Artifact
    others: tuple[Artifact, ...] = ()
    named: dict[str, Artifact] = Field(default_factory=dict)
    data: DataArtifact | None = None
    checks: dict[int, float] = Field(default_factory=dict)


def maker(store: LocalStore, content: bytes = b"made") -> tuple[Callable[[], Result], list[int]]:
    calls: list[int] = []

    def produce(_folder: Path) -> Result:
        calls.append(1)
        return Result(artifact=put(store, {"file": content}), checks={8: 0.1 + 0.2})

    return produce, calls


def record_path(store: LocalStore) -> Path:
    (path,) = (store.root / "records" / "build").iterdir()
    return path


def test_the_same_key_does_no_work_and_gives_an_equal_result(store: LocalStore) -> None:
    produce, calls = maker(store)
    first = run_cached(store, "build", KEY, Result, produce)
    again = run_cached(LocalStore(store.root), "build", dict(reversed(KEY.items())), Result, produce)
    assert (first.cached, again.cached, len(calls)) == (False, True, 1)
    assert again.result == first.result


CHANGES: list[dict[str, object]] = [
    {"recipe": 2},
    {"onnx": "sha256:1"},
    {"options": {"level": "none"}},
    {"options": {}},
    {"sizes": [2, 1]},
    {"none": 0},
    {"more": None},
    {"recipe": "1"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_other_key_does_the_work(store: LocalStore, change: dict[str, object]) -> None:
    produce, calls = maker(store)
    run_cached(store, "build", KEY, Result, produce)
    assert not run_cached(store, "build", KEY | change, Result, produce).cached
    assert len(calls) == 2


def test_another_stage_with_the_same_key_does_the_work(store: LocalStore) -> None:
    produce, calls = maker(store)
    run_cached(store, "build", KEY, Result, produce)
    assert not run_cached(store, "compare", KEY, Result, produce).cached
    assert len(calls) == 2


def edit(store: LocalStore, change: Callable[[dict[str, Any]], object]) -> None:
    path = record_path(store)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another key": lambda record: record["key"].update(onnx="sha256:1"),
    "one key more": lambda record: record["key"].update(more=1),
    "no key": lambda record: record.pop("key"),
    "no result": lambda record: record.pop("result"),
    "a result of another kind": lambda record: record["result"].update(unknown=1),
    "no digest": lambda record: record["result"]["artifact"].update(digest="none"),
    "another digest": lambda record: record["result"]["artifact"].update(digest="sha256:" + "0" * 64),
    "fewer files": lambda record: record["result"]["artifact"].update(files=[]),
    "another path": lambda record: record["result"]["artifact"]["files"][0].update(path="other"),
    "a path outside": lambda record: record["result"]["artifact"]["files"][0].update(path="../../file"),
    "another size": lambda record: record["result"]["artifact"]["files"][0].update(size_bytes=1),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edited_record_is_not_reused(store: LocalStore, change: Callable[[dict[str, Any]], object]) -> None:
    produce, calls = maker(store)
    first = run_cached(store, "build", KEY, Result, produce)
    edit(store, change)
    again = run_cached(store, "build", KEY, Result, produce)
    assert (again.cached, len(calls)) == (False, 2)
    assert again.result == first.result
    assert run_cached(store, "build", KEY, Result, produce).cached


def test_a_record_that_was_moved_to_another_key_is_not_reused(store: LocalStore) -> None:
    produce, calls = maker(store)
    run_cached(store, "build", KEY, Result, produce)
    stolen = record_path(store).read_bytes()
    record_path(store).unlink()
    other = KEY | {"recipe": 2}
    run_cached(store, "build", other, Result, produce)
    record_path(store).write_bytes(stolen)
    assert not run_cached(store, "build", other, Result, produce).cached
    assert len(calls) == 3


def test_a_record_whose_blobs_are_gone_is_not_reused(store: LocalStore) -> None:
    produce, calls = maker(store)
    run_cached(store, "build", KEY, Result, produce)
    for path in (store.root / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    assert not run_cached(store, "build", KEY, Result, produce).cached
    assert run_cached(store, "build", KEY, Result, produce).cached
    assert len(calls) == 2


def test_an_artifact_is_found_at_any_depth(store: LocalStore) -> None:
    artifacts = [put(store, {"f": bytes([number])}) for number in range(5)]
    result = Result(
        artifact=artifacts[0],
        others=(artifacts[1],),
        named={"a": artifacts[2]},
        data=DataArtifact(inputs=artifacts[3], annotations=artifacts[4], samples=1, slices=()),
    )
    assert list(artifacts_in(result)) == artifacts


def test_a_failed_stage_records_nothing_and_frees_its_lock(store: LocalStore) -> None:
    def fail(_folder: Path) -> Result:
        raise StageError("no")

    with pytest.raises(StageError):
        run_cached(store, "build", KEY, Result, fail)
    produce, calls = maker(store)
    assert not run_cached(store, "build", KEY, Result, produce).cached
    assert len(calls) == 1


def test_several_processes_with_one_key_do_its_work_once(store: LocalStore, tmp_path: Path) -> None:
    def work(number: int) -> bool:
        def produce(_folder: Path) -> Result:
            (tmp_path / f"made {number}").touch()
            return Result(artifact=put(store, {"file": b"made"}))

        return run_cached(LocalStore(store.root), "build", KEY, Result, produce).cached

    found = race([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
    assert sorted(found) == ["False", "True", "True", "True"]
    assert len(list(tmp_path.glob("made *"))) == 1


@pytest.mark.hardship
def test_killed_at_any_change_the_next_run_ends_with_the_same_result(tmp_path: Path) -> None:
    def work(root: Path) -> Any:
        store = LocalStore(root)
        produce, _ = maker(store)
        return run_cached(store, "build", KEY, Result, produce)

    expected = work(tmp_path / "undisturbed").result
    killed = 0
    for root in kill_points(work, tmp_path):
        assert work(root).result == expected
        assert work(root).cached
        assert list((root / "scratch").glob("*")) == []
        killed += 1
    assert killed > 25 // numbers().stride


WHY: dict[str, object] = {"reason": "its kernels are suspect", "who": "ann", "when": "2026-12-01T00:00:00+00:00"}


def test_a_result_that_was_thrown_away_is_made_again_and_the_record_says_why(store: LocalStore) -> None:
    first = run_cached(store, "build", KEY, Result, maker(store, b"wrong")[0]).result
    gone = json.loads(record_path(store).read_text())["digest"]
    assert discard_cached(store, "build", KEY, WHY)
    produce, calls = maker(store, b"right")
    made = run_cached(store, "build", KEY, Result, produce)
    assert (made.cached, len(calls), made.result == first) == (False, 1, False)
    assert json.loads(record_path(store).read_text())["discarded"] == [{**WHY, "result": gone}]
    assert run_cached(store, "build", KEY, Result, produce).cached


def test_one_reason_throws_one_result_away_however_often_it_is_given(store: LocalStore) -> None:
    produce, calls = maker(store)
    run_cached(store, "build", KEY, Result, produce)
    assert discard_cached(store, "build", KEY, WHY)
    assert discard_cached(store, "build", KEY, WHY), "killed before it was made again"
    run_cached(store, "build", KEY, Result, produce)
    assert discard_cached(store, "build", KEY, WHY)
    assert run_cached(store, "build", KEY, Result, produce).cached
    later = {**WHY, "when": "2026-12-02T00:00:00+00:00"}
    assert discard_cached(store, "build", KEY, later)
    assert not run_cached(store, "build", KEY, Result, produce).cached
    assert len(calls) == 3
    history = json.loads(record_path(store).read_text())["discarded"]
    assert [entry["when"] for entry in history] == [WHY["when"], later["when"]]


def test_where_nothing_is_cached_nothing_is_thrown_away(store: LocalStore) -> None:
    assert not discard_cached(store, "build", KEY, WHY)
    run_cached(store, "build", KEY, Result, maker(store)[0])
    assert not discard_cached(store, "build", {**KEY, "recipe": 2}, WHY)
    assert "discarded" not in json.loads(record_path(store).read_text()), "a record reads as it did before"
