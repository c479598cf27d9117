"""Promoting and pulling where others do too, where processes are killed, and where a fifth of all calls fail."""

from __future__ import annotations

import functools
import random
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RefusedError, StageError
from tasks.objects.s3 import S3Objects
from tasks.process.context import StageContext
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.release.promote import carry_out, propose_promotion
from tasks.release.pull import pull_engine
from tasks.release.serving_folder import ServingFolder
from tests.hardship import numbers
from tests.s3_servers import BUCKET, Faults, aws_settings, serve_faulty
from tests.tasks.processes import race, start_fork
from tests.tasks.registry.keys import signing_as
from tests.tasks.serving_host import PRODUCTION, Shop, version_served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.release.promote import Proposal
    from tests.tasks.conftest import Place

pytestmark = pytest.mark.hardship

PROCESSES, KILLS = numbers().processes, numbers().kills
VERSIONS = [f"{number:012x}" for number in range(PROCESSES)]
STAGING = ChannelAddress("tiny", "cpu", ChannelName.STAGING)


@pytest.fixture
def shop(shared_place: Place, tmp_path: Path) -> Shop:
    """An empty registry of each kind, signed and trusted, and a host."""
    return Shop(tmp_path, shared_place.open(), signing_as(tmp_path / "keys"))


def opened(shared_place: Place, tmp_path: Path) -> Registry:
    """The registry for a process that is forked: it makes connections of its own."""
    return Registry(shared_place.open(), signing_as(tmp_path / "keys"))


def proposals(shop: Shop, versions: list[str]) -> list[Proposal]:
    """Publish an engine of each version, and propose each for staging, as it is now."""
    ids = [shop.publish(version).engine_id for version in versions]
    return [propose_promotion(shop.registry, shop.rejected, STAGING, engine_id) for engine_id in ids]


def promote(registry: Registry, shop: Shop, proposal: Proposal, who: str = "ann") -> str:
    """Carry a proposal out; returns the engine, or what a loser is told."""
    try:
        move = carry_out(registry, StageContext(shop.store), proposal, reason="faster", override=None, who=who)
    except RefusedError as error:
        return str(error)
    return move.engine_id


def test_of_many_who_promote_what_they_were_shown_one_wins_and_the_rest_are_told_who(
    shared_place: Place, shop: Shop, tmp_path: Path
) -> None:
    shown = proposals(shop, VERSIONS)
    unused = opened(shared_place, tmp_path)
    answers = race(
        [functools.partial(promote, unused, shop, each, f"person {number}") for number, each in enumerate(shown)]
    )
    (move,) = (one.move for one in opened(shared_place, tmp_path).channels.read(STAGING).moves)
    winner = next(number for number, each in enumerate(shown) if each.proposed.manifest.engine_id == move.engine_id)
    assert move.who == f"person {winner}"
    assert answers.pop(winner) == move.engine_id
    assert all(f"person {winner} moved it to {move.engine_id} at " in answer for answer in answers), answers


def end(work: Callable[[], object], within_s: float | None) -> None:
    """Run `work` in a process, and kill it at a random moment of the first seconds, if any are given."""
    process = start_fork(work)
    if within_s is not None:
        time.sleep(random.random() * within_s)  # noqa: S311 - no secret
        process.kill()
    process.join()
    assert process.exitcode in {0, None if within_s is None else -9}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes in a process of its own."""
    started = time.perf_counter()
    end(work, None)
    return time.perf_counter() - started


def test_killed_at_random_moments_a_promotion_leaves_the_old_engine_or_the_new_one(
    shared_place: Place, shop: Shop, tmp_path: Path
) -> None:
    unused = opened(shared_place, tmp_path)
    engines = [shop.publish(version).engine_id for version in VERSIONS[:2]]
    moved, taken = 0, 0.0
    for number in range(KILLS[shared_place.kind] + 1):
        before = shop.registry.channels.read(STAGING)
        engine_id = (
            engines[number % 2] if before.current is None else next(e for e in engines if e != before.current.engine_id)
        )
        shown = propose_promotion(shop.registry, shop.rejected, STAGING, engine_id)
        work = functools.partial(promote, unused, shop, shown)
        if number == 0:
            taken = seconds(work)
            continue
        end(work, taken)
        after = shop.registry.channels.read(STAGING)
        assert after.moves[: len(before.moves)] == before.moves
        new = [one.move.engine_id for one in after.moves[len(before.moves) :]]
        assert new in ([], [engine_id])
        moved += len(new)
    assert 0 < moved < KILLS[shared_place.kind] or not numbers().is_hard


def test_killed_at_random_moments_a_pull_leaves_the_old_engine_or_the_new_one(
    shared_place: Place, shop: Shop, tmp_path: Path
) -> None:
    unused, host = opened(shared_place, tmp_path), tmp_path / "host"
    for version in VERSIONS[:2]:
        shop.publish(version)
    taken, seen = 0.0, set()
    for number in range(KILLS[shared_place.kind] + 1):
        old, new = VERSIONS[(number + 1) % 2], VERSIONS[number % 2]
        move = shop.promote(shop.registry.engines.read_manifest(shop.registry.engines.list_cells()[number % 2]).cell)
        assert move.engine_id.endswith(new)
        work = functools.partial(pull, unused, host)
        if number == 0:
            taken = seconds(work)
            continue
        end(work, taken)
        served = version_served(host)
        assert served in {old, new}
        seen.add(served == new)
        pull(shop.registry, host)
        assert version_served(host) == new
    assert seen == {True, False} or not numbers().is_hard


def pull(registry: Registry, host: Path) -> None:
    pull_engine(registry, ServingFolder(host), PRODUCTION, wait_s=30)


@contextmanager
def faulty(shared_place: Place, tmp_path: Path, faults: Faults) -> Iterator[Registry]:
    """The registry, by way of a proxy that makes calls fail."""
    with serve_faulty(shared_place.endpoint, faults) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_settings(endpoint).items():
            patch.setenv(name, value)
        yield Registry(S3Objects(BUCKET, shared_place.prefix, part_bytes=5 << 20), signing_as(tmp_path / "keys"))


def test_with_a_fifth_of_all_calls_failing_promotions_and_pulls_succeed_or_leave_things_as_they_were(
    bucket: Place, tmp_path: Path
) -> None:
    shop, faults, host = Shop(tmp_path, bucket.open(), signing_as(tmp_path / "keys")), Faults(0.2), tmp_path / "host"
    engines = [shop.publish(version) for version in VERSIONS[:2]]
    outcomes = {"promoted": 0, "pulled": 0}
    with faulty(bucket, tmp_path, faults) as failing:
        for number in range(10):
            before = shop.registry.channels.read(PRODUCTION).moves
            try:
                Shop.promote(Shop(tmp_path, failing.objects, shop.signing), engines[number % 2].cell)
                outcomes["promoted"] += 1
            except StageError:
                pass
            after = shop.registry.channels.read(PRODUCTION).moves
            assert after[: len(before)] == before
            assert len(after) - len(before) in {0, 1}
            served = version_served(host) if host.exists() else None
            try:
                pull(failing, host)
                outcomes["pulled"] += 1
                assert version_served(host) == after[-1].move.engine_id.partition("@")[2]
            except StageError:
                assert (version_served(host) if host.exists() else None) == served
            for folder in host.glob("tiny-*"):  # so that every pull fetches
                shutil.rmtree(folder)
            for link in ("current", "previous"):
                (host / link).unlink(missing_ok=True)
    assert min(outcomes.values()) >= 9
    assert sum(count for kind, count in faults.seen.items() if kind != "forwarded") >= 30
