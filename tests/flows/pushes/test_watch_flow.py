"""The watcher, with what it hands on in a list instead of converted."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.pushes import watch_flow as watch_module
from flows.pushes.watch_flow import MOST_TRIES, ZEROS, matching, watch
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.errors import InputError, StageError
from tests.tasks.git.repositories import Source, git, make_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Sent = tuple[str, str, str]


class Conversions:
    """What was handed on: (branch, head, the commit before). `fault` says which of them go wrong."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.folders: set[str] = set()
        self.fault: Callable[[str], BaseException | None] = lambda _branch: None

    def convert(self, repository: str, commit: str, old: str, ref: str) -> None:
        self.folders.add(repository)
        self.sent.append((ref, commit, old))
        fault = self.fault(ref)
        if fault is not None:
            raise fault

    def take(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Conversions:
    conversions = Conversions()
    monkeypatch.setattr(watch_module, "convert_commit", conversions.convert)
    return conversions


@pytest.fixture(autouse=True)
def session(tmp_path: Path) -> Iterator[Session]:
    settings = Settings(home=tmp_path / "home", repositories=f"file://{tmp_path}")
    with use_session(Session(settings, Reporter())) as session:
        yield session


@pytest.fixture
def source(tmp_path: Path) -> Source:
    source = make_source(tmp_path / "repository")
    source.commit({"a": "0"})
    return source


def look(*sources: Source, **options: Any) -> dict[str, dict[str, str]]:
    return watch.fn([str(source.root) for source in sources], **options)


def test_a_branch_is_noted_at_first_and_each_move_is_handed_on_once(source: Source, conversions: Conversions) -> None:
    first = git(source.root, "rev-parse", "HEAD")
    assert look(source) == {str(source.root): {}}
    source.commit({"a": "1"})
    second = source.commit({"a": "2"})
    assert look(source) == {str(source.root): {"main": second}}
    assert look(source) == {str(source.root): {}}
    assert conversions.take() == [("main", second, first)]
    assert conversions.folders == {str(source.root)}


def test_a_branch_that_was_never_seen_is_converted_where_that_is_asked_for(
    source: Source, conversions: Conversions
) -> None:
    look(source, first="convert")
    look(source, first="convert")
    assert conversions.take() == [("main", git(source.root, "rev-parse", "HEAD"), ZEROS)]


def test_only_branches_of_these_patterns_are_watched(source: Source, conversions: Conversions) -> None:
    for name in ("release/1", "release/2", "feature/x", "-x"):
        git(source.root, "update-ref", f"refs/heads/{name}", "HEAD")
    look(source, branches=["release/*"], first="convert")
    assert [branch for branch, _, _ in conversions.take()] == ["release/1", "release/2"]
    assert matching({"Main": "1", "main": "2"}, ["main"]) == {"main": "2"}


def test_an_address_is_fetched_and_its_mirror_converted(source: Source, conversions: Conversions) -> None:
    address = f"file://{source.root}"
    watch.fn([address])
    head = source.commit({"a": "1"})
    assert watch.fn([address, address]) == {address: {"main": head}}
    (folder,) = conversions.folders
    assert folder.endswith(".git")


def test_a_forced_push_is_handed_on_with_the_commit_that_was_there(source: Source, conversions: Conversions) -> None:
    second = source.commit({"a": "1"})
    look(source)
    git(source.root, "reset", "--quiet", "--hard", "HEAD~1")
    look(source)
    assert conversions.take() == [("main", git(source.root, "rev-parse", "HEAD"), second)]


def test_a_watcher_that_dies_in_the_middle_hands_the_same_commit_on_again(
    source: Source, conversions: Conversions
) -> None:
    look(source)
    old, head = git(source.root, "rev-parse", "HEAD"), source.commit({"a": "1"})
    conversions.fault = lambda _branch: KeyboardInterrupt()
    for _ in range(MOST_TRIES + 1):
        with pytest.raises(KeyboardInterrupt):
            look(source)
    conversions.fault = lambda _branch: None
    look(source)
    look(source)
    assert conversions.take() == [("main", head, old)] * (MOST_TRIES + 2)


def test_a_commit_that_goes_wrong_is_tried_again_a_few_times_and_keeps_no_branch_back(
    source: Source, conversions: Conversions
) -> None:
    git(source.root, "branch", "other")
    look(source, branches=["*"])
    old, head = git(source.root, "rev-parse", "HEAD"), source.commit({"a": "1"})
    git(source.root, "branch", "--force", "other", "main")
    conversions.fault = lambda branch: StageError("MLflow is down") if branch == "main" else None
    for _ in range(MOST_TRIES):
        with pytest.raises(StageError, match=f"main: {head[:12]}: MLflow is down"):
            look(source, branches=["*"])
    look(source, branches=["*"])
    sent = conversions.take()
    assert sent.count(("main", head, old)) == MOST_TRIES
    assert sent.count(("other", head, old)) == 1
    last = source.commit({"a": "2"})
    with pytest.raises(StageError):
        look(source, branches=["*"])
    assert conversions.take() == [("main", last, head)]


def test_a_newer_commit_is_tried_from_the_last_one_that_was_handed_on(source: Source, conversions: Conversions) -> None:
    look(source)
    old = git(source.root, "rev-parse", "HEAD")
    source.commit({"a": "1"})
    conversions.fault = lambda _branch: StageError("x")
    with pytest.raises(StageError):
        look(source)
    conversions.take()
    conversions.fault = lambda _branch: None
    head = source.commit({"a": "2"})
    look(source)
    assert conversions.take() == [("main", head, old)], "the models of the commit in between are not left out"


def test_a_repository_that_is_down_keeps_no_other_back(source: Source, conversions: Conversions) -> None:
    look(source)
    head = source.commit({"a": "1"})
    gone, forbidden = f"file://{source.root.parent}/gone", "https://example.org/a"
    with pytest.raises(StageError) as told:
        watch.fn(["relative", forbidden, gone, "-x", str(source.root)])
    assert [branch for branch, commit, _ in conversions.take() if commit == head] == ["main"]
    lines = str(told.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["relative", forbidden, gone, "-x"]


def test_through_the_deployment_the_address_is_sent_and_nothing_is_converted_here(
    source: Source, conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes: list[Any] = []

    @contextmanager
    def no_client(**_options: bool) -> Iterator[None]:
        yield

    monkeypatch.setattr(watch_module, "get_client", no_client)
    monkeypatch.setattr(watch_module, "submit_push", lambda _client, push: pushes.append(push))
    address = f"file://{source.root}"
    watch.fn([address])
    old, head = git(source.root, "rev-parse", "HEAD"), source.commit({"a": "1"})
    watch.fn([address], through="deployment")
    (push,) = pushes
    assert (push.address, push.commit, push.old, push.ref) == (address, head, old, "main")
    assert conversions.take() == []


def test_a_worker_without_a_lasting_home_is_refused() -> None:
    with (
        use_session(Session(Settings(), Reporter())),
        pytest.raises(InputError, match="ENGINEGATE_HOME: a watcher needs it"),
    ):
        watch.fn([])


def test_a_folder_that_no_list_names_is_not_read(source: Source, tmp_path: Path) -> None:
    for allowed in ("https://github.com/acme", f"{tmp_path}/other,file://{tmp_path}/another"):
        settings = Settings(home=tmp_path / "home", repositories=allowed)
        with use_session(Session(settings, Reporter())), pytest.raises(StageError, match="lies in none of"):
            look(source)
    settings = Settings(home=tmp_path / "home", repositories=f"https://github.com/acme,{tmp_path}")
    with use_session(Session(settings, Reporter())):
        assert look(source) == {str(source.root): {}}


def test_a_store_that_is_deleted_loses_no_push(source: Source, conversions: Conversions, session: Session) -> None:
    noted = git(source.root, "rev-parse", "HEAD")
    look(source)
    session.settings.store_path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(session.settings.store_path)
    pushed = source.commit({"a": "1"})
    with use_session(Session(session.settings, Reporter())):
        look(source)
    assert conversions.take() == [("main", pushed, noted)]
    shutil.rmtree(session.settings.store_path, ignore_errors=True)
    newest = source.commit({"a": "2"})
    with use_session(Session(session.settings, Reporter())):
        look(source)
    assert conversions.take() == [("main", newest, pushed)]
