from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tasks.store.local import LocalStore
from tasks.store.record_folder import STATE, RecordFolder, open_state
from tests.tasks.processes import race

if TYPE_CHECKING:
    from pathlib import Path

KEY = "essay-scorer"


@pytest.fixture
def old(tmp_path: Path) -> LocalStore:
    """A store of a release that kept the state in it."""
    store = LocalStore(tmp_path / "store")
    for kind in (*STATE, "build"):
        store.write_record(kind, KEY, {"of": kind})
    return store


def state_of(tmp_path: Path) -> RecordFolder:
    return open_state(tmp_path / "state", tmp_path / "store")


@pytest.mark.usefixtures("old")
def test_the_state_of_an_older_store_is_taken_over_and_nothing_else(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    assert [state.read_record(kind, KEY) for kind in STATE] == [{"of": kind} for kind in STATE]
    assert state.list_records("build") == ()


def test_what_was_taken_over_outlives_the_store(old: LocalStore, tmp_path: Path) -> None:
    state_of(tmp_path)
    shutil.rmtree(old.root)
    assert state_of(tmp_path).read_record("journal", KEY) == {"of": "journal"}


def test_an_older_store_is_read_once_so_that_newer_state_stays(old: LocalStore, tmp_path: Path) -> None:
    state_of(tmp_path).write_record("watch", KEY, {"head": "new"})
    old.write_record("watch", KEY, {"head": "older"})
    assert state_of(tmp_path).read_record("watch", KEY) == {"head": "new"}


def test_hosts_that_share_an_older_store_each_take_it_over(old: LocalStore, tmp_path: Path) -> None:
    for host in ("a", "b"):
        assert open_state(tmp_path / host, old.root).read_record("watch", KEY) == {"of": "watch"}


@pytest.mark.usefixtures("old")
def test_processes_that_take_over_at_once_all_find_it_whole(tmp_path: Path) -> None:
    def work() -> str:
        state = state_of(tmp_path)
        return str(all(state.read_record(kind, KEY) == {"of": kind} for kind in STATE))

    assert race([work] * 8) == ["True"] * 8


def test_reading_a_new_home_writes_nothing(tmp_path: Path) -> None:
    assert state_of(tmp_path).read_record("journal", KEY) is None
    assert list(tmp_path.iterdir()) == []
