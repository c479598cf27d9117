"""Publishing where others do too, where processes are killed, and where a fifth of all calls fail."""

from __future__ import annotations

import functools
import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tasks.errors import StageError
from tasks.objects.s3 import S3Objects
from tasks.registry.registry import Registry
from tests.hardship import numbers
from tests.s3_servers import BUCKET, Faults, aws_settings, serve_faulty
from tests.tasks.processes import race, start_fork
from tests.tasks.registry.keys import signing_as
from tests.tasks.tiny import cell, lay_out, make_outcome, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.store.local import LocalStore
    from tests.tasks.conftest import Place

pytestmark = pytest.mark.hardship

PROCESSES, KILLS = numbers().processes, numbers().kills


@pytest.fixture
def signing(tmp_path: Path) -> Path:
    """The folder of the key that signs and is trusted."""
    signing_as(tmp_path / "keys")
    return tmp_path / "keys"


def opened(shared_place: Place, keys: Path) -> Registry:
    return Registry(shared_place.open(), signing_as(keys))


def engine(
    store: LocalStore, folder: Path, number: int = 0, plan: bytes = b"plan"
) -> tuple[EngineManifest, dict[str, Path]]:
    """An engine of a version of its own, with its files."""
    manifest = manifest_of(store, make_outcome(store, plan=plan, engine=cell(version=f"{number:012x}")))
    return manifest, lay_out(store, manifest, folder / f"{number}-{plan[:8].hex()}")


def test_of_many_processes_that_publish_one_engine_exactly_one_registers_it(
    shared_place: Place, signing: Path, store: LocalStore, tmp_path: Path
) -> None:
    manifest, folders = engine(store, tmp_path / "files")
    unused = opened(shared_place, signing)
    found = race([functools.partial(unused.engines.publish, manifest, folders)] * PROCESSES)
    assert sorted(found) == ["False"] * (PROCESSES - 1) + ["True"]
    assert opened(shared_place, signing).engines.verify(manifest.cell) == []
    assert opened(shared_place, signing).engines.list_cells() == [manifest.cell]


def test_of_many_processes_that_publish_others_under_one_id_one_wins_and_the_rest_are_told(
    shared_place: Place, signing: Path, store: LocalStore, tmp_path: Path
) -> None:
    engines = [engine(store, tmp_path / "files", plan=b"plan %d" % number) for number in range(PROCESSES)]
    unused = opened(shared_place, signing)
    found = race([functools.partial(unused.engines.publish, *each) for each in engines])
    assert sorted(found) == ["RefusedError"] * (PROCESSES - 1) + ["True"]
    winner = engines[found.index("True")][0]
    assert opened(shared_place, signing).engines.read_manifest(winner.cell) == winner
    assert opened(shared_place, signing).engines.verify(winner.cell) == []


def test_killed_at_random_moments_every_engine_that_can_be_read_verifies(
    shared_place: Place, signing: Path, store: LocalStore, tmp_path: Path
) -> None:
    plan = os.urandom(1 << 20)
    engines = [engine(store, tmp_path / "files", number, plan) for number in range(KILLS[shared_place.kind] + 1)]
    unused, registry = opened(shared_place, signing), opened(shared_place, signing)
    started = time.perf_counter()
    assert ended(functools.partial(unused.engines.publish, *engines[0])) == 0
    taken = time.perf_counter() - started
    for number, each in enumerate(engines[1:], start=1):
        for digest in {file.digest for file in each[0].plan.files}:
            registry.objects.delete(f"blobs/sha256/{digest[7:9]}/{digest[9:]}")  # so that it goes up again
        ended(functools.partial(unused.engines.publish, *each), kill_after_s=random.random() * taken)  # noqa: S311 - no secret
        there = each[0].cell in registry.engines.list_cells()
        if there:
            assert registry.engines.verify(each[0].cell) == [], number
        assert registry.engines.publish(*each) is not there
        assert registry.engines.verify(each[0].cell) == [], number


def ended(work: Callable[[], object], kill_after_s: float | None = None) -> int | None:
    """Run `work` in a process, kill it after so long, and return its exit code."""
    process = start_fork(work)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        process.kill()
    process.join()
    return process.exitcode


@contextmanager
def faulty(shared_place: Place, keys: Path, faults: Faults) -> Iterator[Registry]:
    """The registry of `place`, by way of a proxy that makes calls fail."""
    with serve_faulty(shared_place.endpoint, faults) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_settings(endpoint).items():
            patch.setenv(name, value)
        yield Registry(S3Objects(BUCKET, shared_place.prefix, part_bytes=5 << 20), signing_as(keys))


def test_with_a_fifth_of_all_calls_failing_a_publish_succeeds_or_can_be_done_again(
    bucket: Place, signing: Path, store: LocalStore, tmp_path: Path
) -> None:
    faults, registry, succeeded = Faults(0.2), opened(bucket, signing), 0
    with faulty(bucket, signing, faults) as failing:
        for number in range(5):
            each = engine(store, tmp_path / "files", number, os.urandom(6 << 20))  # two parts
            try:
                assert failing.engines.publish(*each) in {True, False}
                succeeded += 1
            except StageError:
                assert registry.engines.publish(*each) in {True, False}
            assert registry.engines.verify(each[0].cell) == []
    assert succeeded >= 4
    assert sum(count for kind, count in faults.seen.items() if kind != "forwarded") >= 15
