"""Rollouts on every kind of store, and by several judges at once."""

from __future__ import annotations

import functools
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tasks.process.context import StageContext
from tasks.rollout.conducting import OvertakenError
from tasks.rollout_spec import RolloutPlan
from tasks.store.local import LocalStore
from tests.tasks.canary import BEGAN, ROLLOUT, Canary
from tests.tasks.processes import race
from tests.tasks.traffic import Traffic, conductor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.conftest import Place

PLAN = RolloutPlan(steps=("shadow", 5.0, 25.0, 100.0), soak="0s")
JUDGES = 3


def shelf_at(place: Place, root: Path) -> Canary:
    return Canary(place.open(), StageContext(LocalStore(root / "store")))


def kinds(shelf: Canary) -> list[str]:
    return [one.step.kind.value for one in shelf.reopened_registry().read(ROLLOUT).steps]


def test_a_canary_is_rolled_out_on_every_store(place: Place, tmp_path: Path) -> None:
    shelf = shelf_at(place, tmp_path).stock()
    shelf.start(PLAN)
    hosts = Traffic(shelf)
    for minutes in range(1, 5):
        hosts.flow()
        conductor(shelf.reopened_canary()).conduct(BEGAN + timedelta(minutes=minutes))
    assert kinds(shelf) == ["start", "advance", "advance", "advance", "finish"]
    assert shelf.engine_at("production") == shelf.canary.manifest.engine_id


def conduct_to_the_end(place: Place, root: Path, number: int) -> list[int]:
    """Judge until the rollout has ended; return the numbers of the steps that this judge wrote."""
    shelf = shelf_at(place, root).found()
    judge, hosts = conductor(shelf, f"judge {number}"), Traffic(shelf, first=1000 * number)
    wrote: list[int] = []
    while shelf.history.open_rollout is not None:
        hosts.flow()
        try:
            found = judge.conduct(datetime.now(BEGAN.tzinfo))
        except OvertakenError:
            continue
        if found.step is not None:
            wrote.append(found.step.number)
    return wrote


@pytest.mark.hardship
def test_of_many_judges_at_once_each_step_is_written_by_one(shared_place: Place, tmp_path: Path) -> None:
    shelf = shelf_at(shared_place, tmp_path).stock()
    shelf.start(PLAN)
    works = [functools.partial(conduct_to_the_end, shared_place, tmp_path, number) for number in range(1, JUDGES + 1)]
    wrote = [json.loads(text) for text in race(works)]
    assert sorted(number for numbers in wrote for number in numbers) == [2, 3, 4, 5]
    assert kinds(shelf) == ["start", "advance", "advance", "advance", "finish"]
    assert len(shelf.channel("production").moves) == 2
