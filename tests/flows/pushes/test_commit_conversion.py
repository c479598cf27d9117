"""The queue of conversions: a small script stands for `enginegate convert`, git and the journal are real."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flows.console import Reporter
from flows.pushes import conversion_process as conversion_child
from flows.pushes.commit_conversion import CommitResult, Order, convert_commit
from flows.pushes.journal import Entry, Journal, State
from flows.session import Session
from flows.settings import Settings
from tasks.git.commit import Commit
from tasks.git.commit_models import content_at
from tasks.git.repository import Repository
from tasks.model.version import version_of
from tests.hardship import numbers
from tests.tasks.git.repositories import Source, git, make_source, model_files
from tests.tasks.processes import start_fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from tasks.records import Cell

PATIENCE_S = 60
FAKE = """
import json, os, pathlib, signal, sys, time
folder, model_directory, flag, commit = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), *sys.argv[3:5]
assert (flag, sys.argv[-1]) == ("--source-commit", "--json")
name = next(line[6:] for line in (model_directory / "model.yaml").read_text().splitlines() if line.startswith("name: "))
orders = json.loads((folder / "orders.json").read_text())
assert sys.argv[5:-1] == orders.get("options", []), sys.argv
version = orders["versions"][commit + name]
signal.signal(signal.SIGINT, signal.SIG_IGN if orders.get("stubborn") else signal.SIG_DFL)
(folder / "started" / f"{name}@{version}-{commit}-{os.getpid()}").touch()
print("at work on", name, file=sys.stderr, flush=True)
for line in orders.get("lines", []):
    print(line, file=sys.stderr, flush=True)
deadline = time.monotonic() + orders["seconds"].get(name, 0)
while time.monotonic() < deadline and not (folder / "go").exists():
    time.sleep(0.01)
code = orders["codes"].get(name, 0)
if code < 0:
    os.kill(os.getpid(), -code)
if code in (1, 2, 5):
    reason = orders.get("reason", "the reason of " + name)
    if "told" in orders:
        print("✕", reason, file=sys.stderr, flush=True)
    print(json.dumps({"error": reason, "exit_code": code}))
    sys.exit(code)
verdict = {0: "pass", 3: "fail", 4: "inconclusive"}[code]
(folder / "made" / f"{name}@{version}-{os.getpid()}").touch()
engine = {"engine_id": f"{name}-cpu-fp32@{version}", "verdict": verdict, "reason": "", "registered": code == 0}
report = {"model": name, "version": orders.get("says", version), "engines": [{**engine, "digest": None}]}
print(json.dumps(report))
sys.exit(code)
"""


@dataclass
class Shop:
    """A repository, a home, and the orders of the script that stands for `enginegate convert`."""

    root: Path
    source: Source
    orders: dict[str, Any] = field(default_factory=lambda: {"versions": {}, "seconds": {}, "codes": {}})
    supersede: str = "finish"

    @property
    def fake(self) -> Path:
        return self.root / "fake"

    def push(self, *files: dict[str, str | bytes | None]) -> str:
        commit = self.source.commit({name: content for each in files for name, content in each.items()})
        self.learn(commit)
        return commit

    def learn(self, commit: str) -> None:
        """Tell the script the versions of a commit's models."""
        with closing(self.source.opened()) as repository:
            at = Commit(repository, repository.tree(commit))
            for directory in {path.partition("/")[0] for path in at.tree.entries}:
                name = at.outline(directory).name
                if name is not None and "inputs" in (at.document(f"{directory}/model.yaml", "")[1]):
                    self.orders["versions"][commit + name] = version_of(content_at(at, directory))
        self.write()

    def write(self) -> None:
        (self.fake / "orders.json").write_text(json.dumps(self.orders))

    def order(self, **changes: Any) -> None:
        self.orders.update(changes)
        self.write()

    def session(self) -> Session:
        settings = Settings(home=self.root / "home", supersede=self.supersede)  # type: ignore[arg-type]
        return Session(settings, Reporter(to_stderr=True))

    def convert(self, commit: str, **options: Any) -> CommitResult:
        order = Order(
            commit,
            convert=(sys.executable, "-S", "-E", str(self.fake / "script.py"), str(self.fake)),
            known=self.known,
            **options,
        )
        with closing(Repository(self.source.root)) as repository:
            return convert_commit(self.session(), repository, order)

    def known(self, cell: Cell) -> str | None:
        return "registered already" if self.count("made", cell.model, cell.version) else None

    def start(self, commit: str, **options: Any) -> BaseProcess:
        return start_fork(lambda: self.convert(commit, **options))

    def count(self, what: str, name: str, version: str = "") -> int:
        """Of `started` or `made`, how often."""
        return len(list((self.fake / what).glob(f"{name}@{version}*")))

    def version(self, commit: str, name: str) -> str:
        return str(self.orders["versions"][commit + name])

    def go(self) -> None:
        (self.fake / "go").touch()

    @property
    def journal(self) -> Journal:
        return Journal(self.session().state)

    def entry(self, commit: str, name: str) -> Entry:
        (entry,) = [entry for entry in self.journal.entries(name) if entry.request.commit == commit]
        return entry

    def state(self, commit: str, name: str) -> State | None:
        return next((e.state for e in self.journal.entries(name) if e.request.commit == commit), None)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    for name in ("started", "made"):
        (tmp_path / "fake" / name).mkdir(parents=True)
    (tmp_path / "fake" / "script.py").write_text(FAKE)
    return Shop(tmp_path, make_source(tmp_path / "repository"))


def model(name: str, text: str = "") -> dict[str, str | bytes | None]:
    return {**model_files(name, name=name, targets=["cpu"], precisions=["fp32"]), f"{name}/model.py": f"# {text}\n"}


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def join(*processes: BaseProcess) -> list[int | None]:
    for process in processes:
        process.join(PATIENCE_S)
    return [process.exitcode for process in processes]


def states(result: CommitResult) -> dict[str | None, State]:
    return {name: entry.state for name, entry in result.models}


def test_a_commit_converts_what_it_changed_and_nothing_else(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    shop.push(model("a"), model("b"))
    commit = shop.push({"a/model.py": "# new\n", "README.md": "x"})
    result = shop.convert(commit)
    assert result.document()["models"] == [
        {
            "model": "a",
            "directory": "a",
            "version": shop.version(commit, "a"),
            "state": "done",
            "exit_code": 0,
            "reason": "",
            "engines": [
                {
                    "engine_id": f"a-cpu-fp32@{shop.version(commit, 'a')}",
                    "verdict": "pass",
                    "reason": "",
                    "registered": True,
                }
            ],
        }
    ]
    assert (result.exit_code, shop.count("started", "a"), shop.count("started", "b")) == (0, 1, 0)
    assert "a | at work on a" in capfd.readouterr().err
    assert not list((shop.root / "home" / "store" / "scratch").iterdir())


def test_a_commit_that_changes_no_model_starts_nothing(shop: Shop) -> None:
    shop.push(model("a"))
    result = shop.convert(shop.push({"README.md": "x"}))
    assert (result.models, result.exit_code) == ((), 0)
    assert shop.journal.models() == ()


def test_a_commit_that_is_sent_again_later_is_the_one_conversion_with_its_verdicts(shop: Shop) -> None:
    commit = shop.push(model("a"), model("b"), model("c"))
    shop.order(codes={"b": 3, "c": 4})
    first = shop.convert(commit)
    again = shop.convert(commit)
    assert states(again) == {"a": State.DONE, "b": State.DONE, "c": State.DONE}
    assert again.document() == first.document()
    assert (first.exit_code, again.exit_code) == (3, 3)
    assert [shop.count("started", name) for name in "abc"] == [1, 1, 1]


def test_with_a_reason_to_do_so_a_commit_that_is_done_is_converted_again_and_the_conversion_knows_it(
    shop: Shop,
) -> None:
    commit = shop.push(model("a"))
    shop.convert(commit)
    shop.order(options=["--again", "a miscompiled engine"], codes={"a": 3})
    result = shop.convert(commit, again="a miscompiled engine")
    assert (states(result), result.exit_code) == ({"a": State.DONE}, 3)
    assert shop.count("started", "a") == 2
    assert shop.entry(commit, "a").exit_code == 3


def test_a_commit_that_is_sent_twice_at_once_is_one_conversion(shop: Shop) -> None:
    commit = shop.push(model("a"))
    shop.order(seconds={"a": 30})
    first, second = shop.start(commit), shop.start(commit)
    until(lambda: shop.count("started", "a"))
    time.sleep(0.5)  # for the second, to do what it must not
    shop.go()
    assert join(first, second) == [0, 0]
    assert shop.count("started", "a") == 1
    assert shop.state(commit, "a") is State.DONE


def test_twice_at_once_shares_a_failure_too_and_later_it_is_tried_again(shop: Shop) -> None:
    commit = shop.push(model("a"))
    shop.order(seconds={"a": 30}, codes={"a": 1})
    first, second = shop.start(commit), shop.start(commit)
    until(lambda: shop.count("started", "a"))
    time.sleep(1)
    shop.go()
    assert join(first, second) == [0, 0]
    assert shop.count("started", "a") == 1
    failed = shop.entry(commit, "a")
    assert (failed.state, failed.exit_code, failed.reason) == (State.FAILED, 1, "the reason of a")
    shop.order(codes={})
    assert states(shop.convert(commit)) == {"a": State.DONE}
    assert shop.count("made", "a") == 1


def test_the_same_version_in_another_commit_is_told_and_not_made_again(shop: Shop) -> None:
    one = shop.push(model("a", "1"))
    two = shop.push(model("a", "2"))
    three = shop.push(model("a", "1"))
    for commit in (one, two, three):
        shop.convert(commit)
    assert shop.count("started", "a") == 2
    assert shop.entry(three, "a").reason == f"converted before, of commit {one[:12]}"
    assert shop.entry(three, "a").engines[0].verdict == "pass"


def test_an_engine_that_the_registry_lost_is_made_again(shop: Shop) -> None:
    one = shop.push(model("a", "1"))
    shop.convert(one)
    next((shop.fake / "made").iterdir()).unlink()
    assert states(shop.convert(one)) == {"a": State.DONE}
    assert shop.count("started", "a") == 2


def test_a_newer_commit_supersedes_an_older_one_that_has_not_started_in_any_order_of_arrival(shop: Shop) -> None:
    first, older, newer = (shop.push(model("a", str(number))) for number in range(3))
    shop.order(seconds={"a": 30})
    running = shop.start(first)
    until(lambda: shop.count("started", "a"))
    late = [shop.start(newer)]
    until(lambda: shop.state(newer, "a") is State.WAITING)
    late.append(shop.start(older))
    until(lambda: shop.state(older, "a") is State.WAITING)
    shop.go()
    assert join(running, *late) == [0, 0, 0]
    assert shop.state(first, "a") is shop.state(newer, "a") is State.DONE
    assert (shop.entry(older, "a").state, shop.entry(older, "a").superseded_by) == (State.SUPERSEDED, newer)
    assert shop.count("started", "a", shop.version(older, "a")) == 0
    # Sent again once the newer one is done, it is wanted for itself.
    assert states(shop.convert(older)) == {"a": State.DONE}
    assert shop.count("made", "a", shop.version(older, "a")) == 1


def test_what_was_done_before_supersedes_nothing_a_branch_may_go_back(shop: Shop) -> None:
    shop.push(model("a"))
    older, newer = shop.push(model("a", "1")), shop.push(model("a", "2"))
    shop.convert(newer)
    assert states(shop.convert(older)) == {"a": State.DONE}
    assert [shop.count("made", "a", shop.version(commit, "a")) for commit in (older, newer)] == [1, 1]


def test_commits_of_two_branches_do_not_supersede_each_other(shop: Shop) -> None:
    first, older, newer = (shop.push(model("a", str(number))) for number in range(3))
    shop.order(seconds={"a": 30})
    processes = [shop.start(first, ref="main")]
    until(lambda: shop.count("started", "a"))
    for commit, ref in ((newer, "feature"), (older, "main")):
        processes.append(shop.start(commit, ref=ref))
        until(lambda commit=commit: shop.state(commit, "a") is State.WAITING)  # type: ignore[misc]
    shop.go()
    assert join(*processes) == [0, 0, 0]
    assert shop.state(older, "a") is shop.state(newer, "a") is State.DONE
    assert shop.count("made", "a", shop.version(older, "a")) == 1


def test_a_push_that_takes_commits_back_is_not_superseded_by_them(shop: Shop) -> None:
    shop.push(model("a"))
    older, newer = shop.push(model("a", "1")), shop.push(model("a", "2"))
    shop.order(seconds={"a": 30})
    processes = [shop.start(newer, ref="main")]
    until(lambda: shop.count("started", "a"))
    processes.append(shop.start(older, old=newer, ref="main"))
    until(lambda: shop.state(older, "a") is State.WAITING)
    shop.go()
    assert join(*processes) == [0, 0]
    assert shop.state(older, "a") is State.DONE


def test_what_a_killed_asker_left_waiting_supersedes_nothing(shop: Shop) -> None:
    first, older, newer = (shop.push(model("a", str(number))) for number in range(3))
    shop.order(seconds={"a": 30})
    running = shop.start(first)
    until(lambda: shop.count("started", "a"))
    asker = shop.start(newer)
    until(lambda: shop.state(newer, "a") is State.WAITING)
    asker.kill()
    join(asker)
    shop.go()
    assert join(running) == [0]
    assert states(shop.convert(older)) == {"a": State.DONE}
    assert shop.state(newer, "a") is State.WAITING
    assert states(shop.convert(newer)) == {"a": State.DONE}


def test_ctrl_c_cancels_nothing_that_another_process_asked_for_too(shop: Shop) -> None:
    first, second = shop.push(model("a", "1")), shop.push(model("a", "2"))
    shop.order(seconds={"a": 30})
    running = shop.start(first)
    until(lambda: shop.count("started", "a"))
    both = [shop.start(second), shop.start(second)]
    until(lambda: shop.state(second, "a") and len(shop.entry(second, "a").askers) == 2)
    os.kill(int(both[0].pid or 0), signal.SIGINT)
    join(both[0])
    assert shop.state(second, "a") is State.WAITING
    shop.go()
    assert join(running, both[1]) == [0, 0]
    assert shop.state(second, "a") is State.DONE


def test_a_branch_that_was_deleted_is_nothing_to_convert(shop: Shop) -> None:
    commit = shop.push(model("a"))
    for zeros in ("0" * 40, "0" * 64):
        result = shop.convert(zeros, old=commit)
        assert (result.document(), result.exit_code) == ({"commit": zeros, "models": []}, 0)
    assert shop.journal.models() == ()


def test_the_journal_keeps_what_is_to_be_made_and_what_it_waits_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_child, "LOOK_EVERY_S", 0.05)
    commit = shop.push(model("a"))
    waiting = f"waiting: no worker on pool gpu-t4 since 09:00 {'x' * 300}"
    shop.order(seconds={"a": 60}, lines=["→ t4 fp32   sent to pool gpu-t4", f"→ t4 fp32     {waiting}", "other"])
    process = shop.start(commit)
    until(lambda: shop.state(commit, "a") and shop.entry(commit, "a").note)
    entry = shop.entry(commit, "a")
    assert entry.planned == (f"a-cpu-fp32@{shop.version(commit, 'a')}",)
    assert entry.note.startswith("t4 fp32 waiting: no worker on pool gpu-t4")
    assert len(entry.note) == 200
    shop.go()
    assert join(process) == [0]
    assert shop.entry(commit, "a").note == ""


def test_a_reason_and_a_name_of_any_length_are_cut_and_told_once(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    shop.push(model("a"))
    commit = shop.push(model("a", "1"), {"b/model.yaml": f"name: {'Q' * 200_000}\n"})
    for told in ({}, {"told": True}):
        shop.order(codes={"a": 1}, reason=f"it is {'A' * 1_000_000}", **told)
        result = shop.convert(commit)
        assert states(result).keys() == {"a", next(name for name in shop.journal.models() if name != "a")}
        assert max(len(name) for name in shop.journal.models()) == 200
        assert len(shop.entry(commit, "a").reason) == 2000
        shown = capfd.readouterr().err
        assert shown.count("a | ✕ it is AAA") == 1
        assert max(map(len, shown.splitlines())) < 2300
    shop.order(reason="short")
    shop.convert(commit)
    assert capfd.readouterr().err.count("short") == 1


def test_commits_of_which_none_builds_on_the_other_are_both_converted(shop: Shop) -> None:
    base = shop.push(model("a"), model("b"))
    left = shop.push(model("a", "left"))
    git(shop.source.root, "checkout", "--quiet", "-b", "other", base)
    right = shop.push(model("a", "right"))
    for commit in (left, right, left):
        assert states(shop.convert(commit, old=base)) == {"a": State.DONE}
    assert shop.count("started", "a") == 2


def test_a_commit_that_this_repository_does_not_have_supersedes_nothing(shop: Shop) -> None:
    commit = shop.push(model("a"))
    newer = shop.push(model("a", "newer"))
    shop.convert(newer, old=commit)
    git(shop.source.root, "reset", "--quiet", "--hard", commit)
    git(shop.source.root, "reflog", "expire", "--expire=now", "--all")
    git(shop.source.root, "gc", "--quiet", "--prune=now")
    assert states(shop.convert(commit)) == {"a": State.DONE}


def test_a_conversion_that_runs_is_let_finish(shop: Shop) -> None:
    older, newer = shop.push(model("a", "1")), shop.push(model("a", "2"))
    shop.order(seconds={"a": 30})
    processes = [shop.start(older)]
    until(lambda: shop.count("started", "a"))
    processes.append(shop.start(newer))
    until(lambda: shop.state(newer, "a") is State.WAITING)
    shop.go()
    assert join(*processes) == [0, 0]
    assert shop.state(older, "a") is shop.state(newer, "a") is State.DONE


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_conversion_that_runs_is_cancelled_where_the_setting_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(conversion_child, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(conversion_child, "GRACE_S", 0.3)
    shop.supersede = "cancel"
    older, newer = shop.push(model("a", "1")), shop.push(model("a", "2"))
    shop.order(seconds={"a": 60}, stubborn=stubborn)
    first = shop.start(older)
    until(lambda: shop.count("started", "a"))
    second = shop.start(newer)
    until(lambda: shop.state(older, "a") is State.CANCELLED)
    shop.go()
    assert join(first, second) == [0, 0]
    cancelled = shop.entry(older, "a")
    assert (cancelled.exit_code, cancelled.superseded_by) == (0, newer)
    assert newer[:12] in cancelled.reason
    assert shop.state(newer, "a") is State.DONE
    assert (shop.count("made", "a", shop.version(older, "a")), shop.count("made", "a")) == (0, 1)


def child_of(shop: Shop, name: str) -> psutil.Process:
    (started,) = (shop.fake / "started").glob(f"{name}@*")
    return psutil.Process(int(started.name.rpartition("-")[2]))


def test_a_killed_supervisor_takes_its_conversion_with_it_and_the_next_one_runs_it_again(shop: Shop) -> None:
    commit = shop.push(model("a"), model("b"))
    shop.order(seconds={"a": 60})
    supervisor = shop.start(commit)
    until(lambda: shop.count("started", "a"))
    child = child_of(shop, "a")
    os.kill(int(supervisor.pid or 0), signal.SIGKILL)
    join(supervisor)
    psutil.wait_procs([child], PATIENCE_S)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert shop.state(commit, "a") is State.RUNNING
    assert not shop.journal.is_held("a")
    shop.go()
    assert states(shop.convert(commit)) == {"a": State.DONE, "b": State.DONE}
    assert [shop.count("made", name) for name in "ab"] == [1, 1]


def test_what_a_killed_supervisor_s_conversion_had_finished_is_not_made_again(shop: Shop) -> None:
    commit = shop.push(model("a"))
    shop.convert(commit)
    request = shop.entry(commit, "a").request
    shop.journal.start("a", request)  # as if it had been killed before it could write the end
    result = shop.convert(commit)
    assert states(result) == {"a": State.DONE}
    assert result.models[0][1].engines[0].verdict == "pass"
    assert shop.count("started", "a") == 1


def test_ctrl_c_ends_the_conversion_and_says_so_in_the_journal(shop: Shop) -> None:
    commit = shop.push(model("a"), model("b"))
    shop.order(seconds={"a": 60})
    supervisor = shop.start(commit)
    until(lambda: shop.count("started", "a"))
    child = child_of(shop, "a")
    os.kill(int(supervisor.pid or 0), signal.SIGINT)
    join(supervisor)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert shop.state(commit, "a") is shop.state(commit, "b") is State.CANCELLED
    shop.go()
    assert states(shop.convert(commit)) == {"a": State.DONE, "b": State.DONE}


def test_a_broken_model_fails_with_its_reason_and_the_others_finish(shop: Shop) -> None:
    shop.push(model("a"), model("b"))
    commit = shop.push({"a/model.yaml": "name: a\nsource: 7\n", "b/model.py": "# new\n"})
    result = shop.convert(commit)
    assert states(result) == {"a": State.FAILED, "b": State.DONE}
    assert result.exit_code == 2
    assert "model.yaml" in shop.entry(commit, "a").reason
    assert states(shop.convert(commit)) == {"a": State.FAILED, "b": State.DONE}
    assert shop.count("started", "b") == 1


@pytest.mark.parametrize("text", ["name: ../../x\n", "name: [\n", 'name: "\\u001b[31mred"\n'])
def test_a_broken_model_without_a_usable_name_is_told_too(shop: Shop, text: str) -> None:
    commit = shop.push({"x/model.yaml": text})
    result = shop.convert(commit)
    assert [entry.state for _, entry in result.models] == [State.FAILED]
    assert result.exit_code == 2
    assert len(shop.journal.models()) == 1
    outside = [path for path in shop.root.rglob("*.json") if path.parent.name not in {"journal", "fake"}]
    assert outside == []


def test_two_directories_of_one_name_are_both_broken(shop: Shop) -> None:
    commit = shop.push(model("a"), {name.replace("a/", "z/", 1): content for name, content in model("a").items()})
    result = shop.convert(commit)
    assert [(name, entry.request.directory, entry.state) for name, entry in result.models] == [
        ("a", "a", State.FAILED),
        ("a", "z", State.FAILED),
    ]
    assert shop.count("started", "a") == 0


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({"a": 3, "b": 4}, 3),
        ({"a": 4, "b": 0}, 4),
        ({"a": 2, "b": 3}, 2),
        ({"a": 5, "b": 2}, 5),
        ({"a": 1, "b": 5}, 1),
        ({"a": -9, "b": 3}, 1),
    ],
)
def test_the_exit_code_is_the_worst_of_the_conversions(shop: Shop, codes: dict[str, int], expected: int) -> None:
    commit = shop.push(model("a"), model("b"))
    shop.order(codes=codes)
    assert shop.convert(commit).exit_code == expected


def test_a_conversion_that_dies_or_makes_another_version_failed(shop: Shop) -> None:
    commit = shop.push(model("a"))
    shop.order(codes={"a": -signal.SIGKILL})
    assert "killed by signal 9" in shop.convert(commit).models[0][1].reason
    shop.order(codes={}, says="0" * 12)
    (shop.fake / "made").joinpath("keep").touch()
    entry = shop.convert(commit).models[0][1]
    assert (entry.state, entry.exit_code) == (State.FAILED, 1)
    assert f"made version {'0' * 12}, and {shop.version(commit, 'a')} was planned" in entry.reason


def test_what_cannot_be_exported_fails_and_the_others_finish(shop: Shop) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1' * 64}\nsize 3\n"
    commit = shop.push(model("a"), {"a/validation.npz": pointer}, model("b"))
    result = shop.convert(commit)
    assert states(result) == {"a": State.FAILED, "b": State.DONE}
    assert "git LFS" in shop.entry(commit, "a").reason
    assert "lfs fetch" in shop.convert(commit, lfs=True).models[0][1].reason


def test_only_the_models_that_are_named_are_converted(shop: Shop) -> None:
    commit = shop.push(model("a"), model("b"))
    assert states(shop.convert(commit, models=["b"])) == {"b": State.DONE}
    assert shop.journal.models() == ("b",)


def test_old_that_is_empty_is_none_and_zeros_mean_that_all_is_new(shop: Shop) -> None:
    shop.push(model("a"))
    commit = shop.push(model("b"))
    assert states(shop.convert(commit, old="")) == {"b": State.DONE}
    assert states(shop.convert(commit, old="0" * 40)) == {"a": State.DONE, "b": State.DONE}


def test_no_program_of_the_current_folder_is_run_in_place_of_the_conversion(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = shop.root / "hostile"
    hostile.mkdir()
    for name in ("flows.py", "json.py", "click.py"):
        (hostile / name).write_text(f"open({str(hostile / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(hostile)
    ended = conversion_child.run_child(
        [*conversion_child.CONVERT, str(hostile), "--source-commit", "1" * 40, "--json"],
        shop.root,
        print,
        lambda: False,
    )
    assert ended.code == 2
    assert "model.yaml" in ended.error
    assert not (hostile / "ran").exists()


PUSHES, MODELS, WORKERS, KILLS = numbers().pushes, 7, 6, 4


@pytest.mark.hardship
def test_every_model_s_newest_commit_is_converted_once_whoever_is_killed_on_the_way(shop: Shop) -> None:
    """Pushes at once and in any order, some sent twice, some killed and sent again, as a watcher would."""
    chance = random.Random(7)  # noqa: S311 - the same pushes in every run
    names = [f"m{number}" for number in range(MODELS)]
    base = shop.push(*(model(name) for name in names))
    commits, newest = [], dict.fromkeys(names, base)
    for number in range(PUSHES):
        touched = chance.sample(names, chance.choice([1, 1, 2]))
        commits.append(shop.push(*(model(name, str(number)) for name in touched)))
        newest.update(dict.fromkeys(touched, commits[-1]))
    shop.order(seconds=dict.fromkeys(names, 0.05))
    sent = [base, *commits, *chance.sample(commits, 10)]
    sent = sorted(sent, key=lambda commit: sent.index(commit) + chance.uniform(0, 10))
    killed = set(chance.sample(range(len(sent)), KILLS))
    running: list[BaseProcess] = []
    for number, commit in enumerate(sent):
        process = shop.start(commit, old="0" * 40 if commit == base else None)
        running.append(process)
        if number in killed:
            process.join(chance.uniform(0.1, 0.6))
            process.kill()
            sent.append(commit)
        until(lambda: sum(each.is_alive() for each in running) < WORKERS)
    join(*running)
    for name in names:
        commit = newest[name]
        assert shop.count("made", name, shop.version(commit, name)) == 1
        assert shop.state(commit, name) is State.DONE
        made = [path.name.rpartition("-")[0] for path in (shop.fake / "made").glob(f"{name}@*")]
        assert len(made) == len(set(made)), "no version was made twice"
        unfinished = [entry for entry in shop.journal.entries(name) if entry.state in {State.WAITING, State.RUNNING}]
        assert unfinished == []
