from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from flows.pushes import journal as module
from flows.pushes.journal import EngineResult, Journal, Request, State, key_of
from tasks.store.local import LocalStore
from tests.tasks.processes import is_killed_at, race

if TYPE_CHECKING:
    from flows.pushes.journal import Entry


def request(commit: str = "a", version: str | None = "1" * 12, directory: str = "m") -> Request:
    return Request(commit=commit * 40, version=version, directory=directory)


@pytest.fixture
def journal(store: LocalStore) -> Journal:
    return Journal(store)


def finished(journal: Journal, commit: str, state: State) -> Entry:
    journal.ask("m", request(commit))
    return journal.finish("m", request(commit), state, exit_code=0)


def test_an_entry_tells_its_way_from_asked_to_done(journal: Journal) -> None:
    asked = journal.ask("m", request(), "main")
    assert (asked.state, asked.ref, asked.since) == (State.WAITING, "main", asked.asked_at)
    started = journal.start("m", request())
    assert (started.state, started.since, started.asked_at) == (State.RUNNING, started.started_at, asked.asked_at)
    engine = EngineResult(engine_id="e", verdict="fail", reason="mae", registered=False)
    done = journal.finish("m", request(), State.DONE, exit_code=3, engines=[engine])
    assert (done.state, done.exit_code, done.engines, done.since) == (State.DONE, 3, (engine,), done.ended_at)
    assert asked.asked_at <= str(started.started_at) <= str(done.ended_at)
    assert Journal(LocalStore(journal._state.root)).entries("m") == (done,)  # type: ignore[attr-defined]  # noqa: SLF001


def test_asking_again_changes_nothing_of_what_waits_runs_or_is_done(journal: Journal) -> None:
    with journal.asking() as asker:
        first = journal.ask("m", request(), asker=asker)
        assert journal.ask("m", request()) == first
        running = journal.start("m", request())
        assert journal.ask("m", request()) == running
        done = journal.finish("m", request(), State.DONE, exit_code=4)
        assert journal.ask("m", request()) == done
    assert len(journal.entries("m")) == 1


def test_a_request_is_asked_for_while_one_of_its_askers_lives(journal: Journal) -> None:
    with journal.asking() as first:
        journal.ask("m", request(), asker=first)
        with journal.asking() as second:
            entry = journal.ask("m", request(), asker=second)
            assert entry.askers == (first, second)
            assert journal.is_asked(entry)
            assert journal.is_asked(entry, besides=first)
        assert journal.is_asked(entry)
        assert not journal.is_asked(entry, besides=first)
        assert not journal.is_asked(journal.finish("m", request(), State.FAILED, exit_code=1))
    assert not journal.is_asked(entry)


@pytest.mark.parametrize("runs", [False, True])
def test_what_a_killed_asker_leaves_counts_for_nothing_and_waits_when_it_is_asked_again(
    journal: Journal, store: LocalStore, runs: bool
) -> None:
    def work() -> None:
        killed = Journal(LocalStore(store.root))
        with killed.asking() as asker:
            killed.ask("m", request("b", "2" * 12), asker=asker)
            if runs:
                killed.start("m", request("b", "2" * 12))
            os.kill(os.getpid(), signal.SIGKILL)

    assert is_killed_at(10_000, work)
    (left,) = journal.entries("m")
    assert left.state is (State.RUNNING if runs else State.WAITING)
    assert not journal.is_asked(left)
    assert list(journal.rivals("m", request("a"), None)) == []
    with journal.asking() as asker:
        again = journal.ask("m", left.request, asker=asker)
        assert (again.state, again.askers) == (State.WAITING, (asker,))
        assert list(journal.rivals("m", request("a"), None)) == ["b" * 40]


def test_rivals_are_other_versions_on_their_way_on_this_branch_and_those_done_since(journal: Journal) -> None:
    before = module.now()
    with journal.asking() as asker:
        for commit, version, ref in [
            ("b", "1", "main"),
            ("c", "2", "refs/heads/main"),
            ("d", "3", "x"),
            ("e", "4", None),
        ]:
            journal.ask("m", request(commit, version * 12), ref, asker=asker)
        asked = request("a", "1" * 12)
        assert [each[0] for each in journal.rivals("m", asked, "main")] == ["c", "e"]
        assert [each[0] for each in journal.rivals("m", asked, None)] == ["c", "d", "e"]
        journal.finish("m", request("c", "2" * 12), State.DONE, exit_code=0)
        journal.finish("m", request("e", "4" * 12), State.FAILED, exit_code=1)
        assert [each[0] for each in journal.rivals("m", asked, "main", before)] == ["c"]
        assert list(journal.rivals("m", asked, "main", module.now())) == []
        assert list(journal.rivals("m", asked, "main")) == []


def test_reasons_and_notes_of_any_length_are_cut_and_say_so(journal: Journal) -> None:
    journal.ask("m", request())
    journal.start("m", request())
    journal.note("m", request(), "w" * 300)
    assert journal.entries("m")[0].note == "w" * 182 + "… (300 characters)"
    engine = EngineResult(engine_id="e", verdict="fail", reason="B" * 5000)
    ended = journal.finish("m", request(), State.FAILED, exit_code=1, reason="A" * 20_000_000, engines=[engine])
    assert ended.reason == "A" * 1977 + "… (20000000 characters)"
    assert (len(ended.engines[0].reason), ended.note) == (2000, "")
    assert journal.finish("m", request(), State.FAILED, exit_code=1, reason="A" * 2000).reason == "A" * 2000


@pytest.mark.parametrize("state", [State.FAILED, State.SUPERSEDED, State.CANCELLED])
def test_what_ended_without_verdicts_waits_again_when_it_is_asked_again(journal: Journal, state: State) -> None:
    ended = finished(journal, "a", state)
    again = journal.ask("m", request())
    assert (again.state, again.ended_at, again.exit_code) == (State.WAITING, None, None)
    assert again.asked_at > str(ended.ended_at)
    assert len(journal.entries("m")) == 1


def test_another_version_of_a_commit_is_another_request(journal: Journal) -> None:
    finished(journal, "a", State.DONE)
    journal.ask("m", request(version="2" * 12))
    assert [entry.state for entry in journal.entries("m")] == [State.DONE, State.WAITING]


def test_starting_again_forgets_how_it_ended_before(journal: Journal) -> None:
    journal.ask("m", request())
    journal.finish("m", request(), State.FAILED, exit_code=1, reason="MLflow", superseded_by="b")
    started = journal.start("m", request())
    assert (started.reason, started.exit_code, started.superseded_by, started.ended_at) == ("", None, None, None)


def test_the_oldest_finished_entries_go_and_unfinished_ones_never(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    journal.ask("m", request("0"))
    for commit in "abcde":
        finished(journal, commit, State.DONE)
    assert [entry.request.commit[0] for entry in journal.entries("m")] == ["0", "c", "d", "e"]
    journal.finish("m", request("0"), State.FAILED, exit_code=1)
    assert [entry.request.commit[0] for entry in journal.entries("m")] == ["0", "d", "e"]


def test_many_processes_that_write_at_once_lose_no_entry(store: LocalStore) -> None:
    def work(worker: str) -> str:
        for number in range(8):
            one = request(worker, f"{number:012d}")
            journal = Journal(LocalStore(store.root))
            journal.ask("m", one)
            journal.finish("m", one, State.DONE, exit_code=0)
        return "done"

    assert race([lambda worker=worker: work(worker) for worker in "abc"]) == ["done"] * 3  # type: ignore[misc]
    entries = Journal(store).entries("m")
    assert len({entry.request for entry in entries}) == len(entries) == 24
    assert {entry.state for entry in entries} == {State.DONE}


def test_a_model_is_held_until_its_process_ends_however_it_ends(journal: Journal, store: LocalStore) -> None:
    def work() -> None:
        with Journal(LocalStore(store.root)).hold("m"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert not journal.is_held("m")
    with journal.hold("m"):
        assert journal.is_held("m")
        assert not journal.is_held("other")
    assert not journal.is_held("m")
    assert is_killed_at(10_000, work)
    assert not journal.is_held("m")


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "", "A", "x" * 400, ".", "\udcff".encode(errors="backslashreplace").decode()]
)
def test_a_text_that_is_no_name_is_kept_within_the_store(journal: Journal, store: LocalStore, name: str) -> None:
    journal.ask(name, request(version=None))
    assert journal.models() == (name,)
    assert len(journal.entries(name)) == 1
    assert [path.parent for path in store.root.rglob("*.json")] == [store.root / "records" / "journal"]
    assert key_of(name).startswith("_")


def test_a_damaged_record_is_none_and_the_next_request_writes_a_new_one(journal: Journal, store: LocalStore) -> None:
    journal.ask("m", request())
    store.write_record("journal", "m", {"model": "m", "entries": [{"state": "unheard-of"}]})
    assert journal.entries("m") == ()
    assert journal.models() == ()
    assert journal.finish("m", request(), State.DONE, exit_code=0).state is State.DONE
    assert journal.models() == ("m",)
