from __future__ import annotations

import hashlib
import os
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import StageError
from tasks.objects import s3_client
from tasks.objects.interface import ChangedError
from tasks.objects.s3 import S3Objects
from tests.s3_servers import BUCKET, Faults, aws_settings, serve_faulty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.tasks.conftest import Place

MIB = 1 << 20
KEY = "channels/scorer/cpu/production.json"
FILE = os.urandom(11 * MIB)
DIGEST = f"sha256:{hashlib.sha256(FILE).hexdigest()}"


def silent(_done: int, _total: int) -> None:
    pass


@contextmanager
def faulty(place: Place, faults: Faults, **options: Any) -> Iterator[S3Objects]:
    """The store of `place`, by way of a proxy that makes calls fail."""
    with serve_faulty(place.endpoint, faults) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_settings(endpoint).items():
            patch.setenv(name, value)
        yield S3Objects(BUCKET, place.prefix, **options)


def is_put(method: str, _path: str) -> bool:
    return method == "PUT"


def is_completion(method: str, path: str) -> bool:
    return method == "POST" and "uploadId=" in path


def test_with_a_fifth_of_all_calls_failing_every_operation_does_what_it_says(bucket: Place) -> None:
    faults, dice = Faults(0.2), random.Random(0)  # noqa: S311 - no secret
    known: dict[str, bytes] = {}
    with faulty(bucket, faults) as objects:
        for step in range(50):
            key, content = f"a/{dice.randrange(4)}", b"x" * dice.randrange(9000) + str(step).encode()
            found = objects.read(key)
            assert (found.content if found else None) == known.get(key)
            if dice.random() < 0.2:
                objects.delete(key)
                known.pop(key, None)
            elif dice.random() < 0.5:
                assert objects.create(key, content) == (key not in known)
                known.setdefault(key, content)
            else:
                objects.replace(key, content, found.tag if found else None)
                known[key] = content
        assert {entry.key: entry.size_bytes for entry in objects.list("")} == {
            key: len(content) for key, content in known.items()
        }
    assert sum(count for kind, count in faults.seen.items() if kind != "forwarded") >= 15


def test_with_a_fifth_of_all_calls_failing_a_file_goes_up_and_comes_down_whole(bucket: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    faults = Faults(0.2)
    with faulty(bucket, faults, part_bytes=5 * MIB) as objects:
        for number in range(4):
            assert objects.upload(f"blobs/{number}", tmp_path / "in", DIGEST, silent)
            objects.download(f"blobs/{number}", tmp_path / str(number), DIGEST, silent)
            assert (tmp_path / str(number)).read_bytes() == FILE
    assert faults.seen["forwarded"] > 20


def test_writers_whose_answers_get_lost_are_told_the_truth_and_no_increment_is_lost(bucket: Place) -> None:
    """Eight threads count to 40: one that won and was told otherwise would count twice."""
    faults = Faults(0.3, kinds=("drop_after", "500_after", "drop_before"), only=is_put)
    bucket.open().create(KEY, b"0")
    with faulty(bucket, faults) as objects:
        failed: list[BaseException] = []

        def count() -> None:
            left = 5
            while left:
                found = objects.read(KEY)
                assert found is not None
                try:
                    objects.replace(KEY, str(int(found.content) + 1).encode(), found.tag)
                    left -= 1
                except ChangedError:
                    continue
                except StageError as error:
                    failed.append(error)
                    return

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        found = objects.read(KEY)
        assert found is not None
        assert found.content == b"40"
    assert faults.seen["drop_after"] > 3


def test_a_replacement_whose_answer_was_lost_is_a_win_with_a_tag_that_goes_on(bucket: Place) -> None:
    tag = bucket.open().replace(KEY, b"one", None)
    with faulty(bucket, Faults(1, kinds=("drop_after",), only=is_put, limit=1)) as objects:
        second = objects.replace(KEY, b"two", tag)
        objects.replace(KEY, b"three", second)
    with pytest.raises(ChangedError):
        bucket.open().replace(KEY, b"four", second)


def test_a_replacement_that_was_moved_on_before_its_lost_answer_was_missed_is_still_a_win(bucket: Place) -> None:
    other = bucket.open()
    tag = other.replace(KEY, b"one", None)

    def move_on() -> None:
        found = other.read(KEY)
        assert found is not None
        assert found.content == b"two"
        other.replace(KEY, b"three", found.tag)

    with faulty(bucket, Faults(1, kinds=("drop_after",), only=is_put, limit=1, meanwhile=move_on)) as objects:
        mine = objects.replace(KEY, b"two", tag)
        with pytest.raises(ChangedError):
            objects.replace(KEY, b"four", mine)
    found = other.read(KEY)
    assert found is not None
    assert found.content == b"three"


def test_a_replacement_that_never_arrived_and_lost_is_a_loss_even_to_the_same_bytes(bucket: Place) -> None:
    other = bucket.open()
    tag = other.replace(KEY, b"1", None)
    with faulty(bucket, Faults(1, kinds=("drop_before",), only=is_put, limit=1)) as objects:
        other.replace(KEY, b"2", tag)
        with pytest.raises(ChangedError):
            objects.replace(KEY, b"2", tag)


@pytest.mark.parametrize("kind", ["drop_after", "500_after", "stall"])
def test_a_creation_whose_answer_was_lost_is_known_for_ours(bucket: Place, kind: str) -> None:
    with faulty(bucket, Faults(1, kinds=(kind,), only=is_put, limit=1), timeout_s=0.5) as objects:
        assert objects.create(KEY, b"one")
        assert not objects.create(KEY, b"one")


def test_a_creation_none_of_whose_answers_arrives_is_looked_up(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    with faulty(bucket, Faults(1, kinds=("drop_after",), only=is_put)) as objects:
        assert objects.create(KEY, b"one")


def test_an_upload_whose_last_answer_was_lost_is_known_for_ours(bucket: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    faults = Faults(1, kinds=("drop_after",), only=is_completion, limit=1)
    with faulty(bucket, faults, part_bytes=5 * MIB) as objects:
        assert objects.upload("blob", tmp_path / "in", DIGEST, silent)
        objects.download("blob", tmp_path / "out", DIGEST, silent)
    assert faults.seen["drop_after"] == 1


def test_two_writes_at_the_same_moment_are_tried_again_but_not_for_ever(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "FIRST_PAUSE_S", 0.001)
    with faulty(bucket, Faults(1, kinds=("conflict",), only=is_put, limit=3)) as objects:
        assert objects.create("a", b"one")
    faults = Faults(1, kinds=("conflict",), only=is_put)
    with faulty(bucket, faults) as objects, pytest.raises(StageError, match=r"/b: cannot write: 8 writes met others"):
        objects.create("b", b"one")
    assert faults.seen["conflict"] == 8
    assert bucket.open().size("b") is None


def test_a_connection_that_breaks_in_the_middle_of_a_part_goes_on_from_there(bucket: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    bucket.open(part_bytes=5 * MIB).upload("blob", tmp_path / "in", DIGEST, silent)
    faults = Faults(1, kinds=("cut",), only=lambda method, _path: method == "GET", limit=6)
    with faulty(bucket, faults, part_bytes=5 * MIB) as objects:
        objects.download("blob", tmp_path / "out", DIGEST, silent)
    assert (tmp_path / "out").read_bytes() == FILE
    assert faults.seen["cut"] == 6


FAILING: list[Callable[[S3Objects, Path], object]] = [
    lambda objects, _path: objects.create(KEY, b"new"),
    lambda objects, _path: objects.replace(KEY, b"new", None),
    lambda objects, path: objects.upload(KEY, path / "in", DIGEST, silent),
    lambda objects, _path: objects.read("there"),
    lambda objects, path: objects.download("there", path / "out", DIGEST, silent),
    lambda objects, _path: objects.size("there"),
    lambda objects, _path: list(objects.list("")),
    lambda objects, _path: objects.delete("there"),
]


@pytest.mark.parametrize("kind", ["500", "drop_before"])
def test_a_server_that_goes_on_failing_is_named_and_leaves_things_as_they_were(
    bucket: Place, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    monkeypatch.setattr(s3_client, "PATIENCE_S", 0)
    (tmp_path / "in").write_bytes(FILE)
    bucket.open().create("there", b"there")
    with faulty(bucket, Faults(1, kinds=(kind,)), part_bytes=5 * MIB) as objects:
        for call in FAILING:
            with pytest.raises(StageError, match=rf"^s3://{BUCKET}/.*cannot .*check the network"):
                call(objects, tmp_path)
    assert [(entry.key, entry.size_bytes) for entry in bucket.open().list("")] == [("there", 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
