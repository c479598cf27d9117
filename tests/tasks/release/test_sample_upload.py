from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.errors import InputError, RefusedError, StageError
from tasks.release.sample_upload import SampleUpload, fetched_samples
from tasks.samples.npz import load_arrays
from tasks.serving.sampling import write_shard
from tests.tasks.memory_objects import MemoryObjects

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore

DAY = "2026-11-30"


def sample(folder: Path, day: str = DAY, fill: float = 1.0) -> Path:
    return write_shard(folder / day, "0900-scorer_0_0", {"x": np.full((2, 3), fill)})


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    return tmp_path / "traffic"


@pytest.fixture
def upload(traffic: Path) -> SampleUpload:
    return SampleUpload(traffic, "tiny/cpu", "host-1")


def test_what_a_host_kept_is_fetched_elsewhere_byte_for_byte(
    objects: ObjectStore, traffic: Path, upload: SampleUpload, tmp_path: Path
) -> None:
    shards = [sample(traffic), sample(traffic, "2026-12-01", fill=2.0)]
    assert upload.run(objects) == 2
    assert all(entry.key.startswith("tiny/cpu/2026-1") for entry in objects.list(""))
    with fetched_samples(objects, tmp_path / "downloads") as folder:
        found = sorted(folder.rglob("*.npz"))
        assert [path.read_bytes() for path in found] == [path.read_bytes() for path in shards]
        assert [path.parent.name for path in found] == [DAY, "2026-12-01"]
    assert list((tmp_path / "downloads" / "scratch").rglob("*.npz")) == []


def test_a_shard_goes_once_and_stays_here_and_what_is_half_written_does_not_go(
    traffic: Path, upload: SampleUpload
) -> None:
    objects = MemoryObjects()
    shard = sample(traffic)
    (shard.parent / f".{shard.name}.partial").write_bytes(b"half")
    (traffic / "notes").mkdir()
    (traffic / "notes" / "mine.npz").write_bytes(b"mine")
    assert [upload.run(objects), upload.run(objects)] == [1, 0]
    assert shard.exists()
    sample(traffic)
    assert upload.run(objects) == 1
    assert len(list(objects.list(""))) == 2


def test_a_watch_that_was_started_anew_writes_nothing_twice(traffic: Path, upload: SampleUpload) -> None:
    objects = MemoryObjects()
    sample(traffic)
    upload.run(objects)
    before = list(objects.list(""))
    SampleUpload(traffic, "tiny/cpu", "host-1").run(objects)
    assert list(objects.list("")) == before


def test_without_the_store_shards_wait(traffic: Path, upload: SampleUpload, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = MemoryObjects()
    sample(traffic)

    def fail(*_: object) -> bool:
        raise StageError("away")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "upload", fail)
        with pytest.raises(StageError, match="away"):
            upload.run(objects)
    assert upload.run(objects) == 1


def test_a_shard_that_was_changed_in_the_store_is_refused(traffic: Path, upload: SampleUpload, tmp_path: Path) -> None:
    objects = MemoryObjects()
    sample(traffic)
    upload.run(objects)
    (entry,) = objects.list("")
    objects.delete(entry.key)
    objects.create(entry.key, b"changed")
    with pytest.raises(RefusedError), fetched_samples(objects, tmp_path / "downloads"):
        pass


def test_a_store_without_samples_is_refused_in_words(tmp_path: Path) -> None:
    objects = MemoryObjects()
    objects.create("tiny/cpu/2026-11-30/mine.npz", b"no digest in its name")
    with (
        pytest.raises(InputError, match=r"holds no samples .*name the prefix"),
        fetched_samples(objects, tmp_path / "downloads"),
    ):
        pass


def test_a_host_without_traffic_uploads_nothing(upload: SampleUpload) -> None:
    assert upload.run(MemoryObjects()) == 0


def test_arrays_come_back_as_they_were(traffic: Path, upload: SampleUpload, tmp_path: Path) -> None:
    objects = MemoryObjects()
    sample(traffic, fill=7.0)
    upload.run(objects)
    with fetched_samples(objects, tmp_path / "downloads") as folder:
        (path,) = folder.rglob("*.npz")
        assert np.array_equal(load_arrays(path)["x"], np.full((2, 3), 7.0))
