from __future__ import annotations

import json
import shutil
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flows.commands import rollout_looks
from flows.commands.cli import main
from tasks.process.context import StageContext
from tasks.store.local import LocalStore
from tests.tasks import canary, traffic
from tests.tasks.canary import ROLLOUT, Canary
from tests.tasks.damage import ObjectFile
from tests.tasks.tiny import VERSION
from tests.tasks.traffic import JudgeStandIn, Traffic
from validation import rollout_judge

if TYPE_CHECKING:
    from pathlib import Path

HERE = ("tiny", "--target", "cpu")
ENGINE = f"tiny-cpu-fp16@{VERSION}"
PLAN = "steps: [shadow, 5, 100]\nsoak: 0s\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    Canary(root / "registry", StageContext(LocalStore(root / "store"))).stock()
    return root


@pytest.fixture
def shelf(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canary:
    """A registry with a canary, the environment that leads there, and a judge of few words."""
    shutil.copytree(template, tmp_path / "home")
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEGATE_ACTOR", "ann")
    monkeypatch.setattr("flows.session.LISTENERS", ())
    monkeypatch.setattr("flows.session.STEP_LISTENERS", ())
    monkeypatch.setattr(rollout_judge, "make_judge", JudgeStandIn)
    monkeypatch.setattr(canary, "BEGAN", datetime.now(timezone.utc))
    monkeypatch.setattr(traffic, "BEGAN", datetime.now(timezone.utc))
    (tmp_path / "rollout.yaml").write_text(PLAN)
    found = Canary(tmp_path / "home" / "registry", StageContext(LocalStore(tmp_path / "home" / "store")))
    return found.found()


@pytest.fixture
def hosts(shelf: Canary) -> Traffic:
    return Traffic(shelf)


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and what people see."""
    result = CliRunner().invoke(main, ["rollout", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def ask(*arguments: str) -> tuple[int, Any]:
    """Exit code and the JSON document."""
    result = CliRunner().invoke(main, ["rollout", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def started() -> None:
    code, text = run("start", *HERE, "--plan", "rollout.yaml", "--reason", "week 47")
    assert code == 0, text


def kinds(shelf: Canary) -> list[str]:
    return [one.step.kind.value for one in shelf.reopened_registry().read(ROLLOUT).steps]


def test_start_says_what_is_rolled_out_beside_what_and_what_to_do_next(shelf: Canary) -> None:
    code, text = run("start", *HERE, "--plan", "rollout.yaml", "--reason", "week 47")
    assert code == 0
    assert "of tiny for cpu: start (step 1) by ann at" in text
    assert "week 47" in text
    assert f"{ENGINE} beside tiny-cpu-fp32@{VERSION}: [shadow], 5, 100" in text
    assert "`enginegate rollout run tiny --target cpu`" in text
    assert kinds(shelf) == ["start"]
    code, text = run("start", *HERE)
    assert (code, "wait for its end, or `enginegate rollout abort` it" in text) == (5, True)


def test_a_mistake_in_the_plan_starts_nothing(shelf: Canary, tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text("steps: [shadow, 5]\n")
    code, text = run("start", *HERE, "--plan", "rollout.yaml")
    assert (code, "rollout.yaml: steps: end at 5" in text, kinds(shelf)) == (2, True, [])


def test_a_good_canary_is_carried_to_the_end_look_by_look(shelf: Canary, hosts: Traffic) -> None:
    started()
    for _ in range(3):
        hosts.flow()
        code, text = run("run", *HERE, "--once")
    assert (code, "✓ rollout of tiny for cpu: finish (step 4) by ann" in text) == (0, True)
    assert shelf.engine_at("production") == ENGINE
    assert run("status", *HERE)[0] == 0
    code, document = ask("status", *HERE)
    assert (code, document["outcome"], document["rollout"]["status"]) == (0, "pass", "finished")


def test_a_bad_canary_is_rolled_back_with_exit_code_3(shelf: Canary, hosts: Traffic) -> None:
    started()
    hosts.flow(error=0.3)
    code, text = run("run", *HERE, "--once")
    assert (code, "✕ rollout of tiny for cpu: rollback (step 2) by ann" in text) == (3, True)
    assert shelf.engine_at("canary") == f"tiny-cpu-fp32@{VERSION}"
    code, document = ask("status", *HERE)
    assert (code, document["outcome"], document["last"]["kind"]) == (3, "fail", "rollback")
    assert ask("run", *HERE, "--once")[0] == 3


@pytest.mark.parametrize(
    ("steps", "code", "outcome"),
    [((), 4, "running"), (("hold",), 4, "inconclusive"), (("abort",), 3, "fail"), (("hold", "resume"), 4, "running")],
)
def test_what_runs_is_held_or_ended_early_is_never_a_success(
    shelf: Canary, hosts: Traffic, steps: tuple[str, ...], code: int, outcome: str
) -> None:
    started()
    hosts.flow()
    for step in steps:
        assert run(step, *HERE, "--reason", "a look")[0] == 0
    found, document = ask("status", *HERE)
    assert (found, document["outcome"]) == (code, outcome)
    assert run("status", *HERE)[0] == code
    assert shelf.history.steps


def test_status_says_how_each_rule_stands_and_what_would_decide(shelf: Canary, hosts: Traffic) -> None:
    shelf.start(who=canary.By("ann", datetime.now(timezone.utc) - timedelta(minutes=10)))
    hosts.pairs(10)
    hosts.put("120000-a-3-00.npz", b"damaged")
    code, text = run("status", *HERE)
    assert code == 4
    assert "→ rollout 0123456789ab of tiny for cpu: running at shadow, since" in text
    assert "(10 min)" in text
    assert "? score mae is 0.0010 on 10 groups: inconclusive." in text
    assert "about 10 more independent groups would decide, 10 min at the present rate" in text
    assert "✕ not used: rollouts/tiny/cpu/0123456789ab/host-1/120000-a-3-00.npz is no file of arrays" in text
    assert "wait: score mae" in text
    document = ask("status", *HERE)[1]
    assert document["needed"]["groups"] == 10
    assert document["needed"]["seconds"] == pytest.approx(600, rel=0.05)
    assert document["decision"]["outcome"] == "inconclusive"
    assert len(document["damaged"]) == 1
    assert document["next"]["action"] == "wait"


def test_status_writes_nothing(shelf: Canary, hosts: Traffic) -> None:
    started()
    hosts.flow(error=0.3)
    run("status", *HERE)
    assert kinds(shelf) == ["start"]


def test_where_nothing_was_rolled_out_it_says_how(shelf: Canary) -> None:
    for command in (("status",), ("run", "--once")):
        code, text = run(command[0], *HERE, *command[1:])
        assert (code, "nothing was ever rolled out; `enginegate rollout start" in text) == (2, True)
    assert run("history", *HERE) == (0, "rollouts of tiny for cpu: no steps\n")
    assert kinds(shelf) == []


def test_only_who_is_named_approves(shelf: Canary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text(PLAN + "approve: {5: [ben]}\n")
    started()
    code, text = run("approve", *HERE)
    assert (code, "step 5 is approved by ben, and you are ann" in text) == (5, True)
    monkeypatch.setenv("ENGINEGATE_ACTOR", "ben")
    assert run("approve", *HERE)[0] == 0
    assert kinds(shelf) == ["start", "approve"]


def test_a_freeze_stops_a_start_and_a_promotion_until_it_is_thawed(shelf: Canary) -> None:
    code, text = run("freeze", *HERE, "--until", "2999-01-04", "--reason", "holidays")
    assert (code, "frozen until 2999-01-04T00:00:00+00:00" in text) == (0, True)
    assert run("start", *HERE)[0] == 5
    promoted = CliRunner().invoke(main, ["promote", *HERE, "--to", "production", "--yes"])
    assert (promoted.exit_code, "is frozen until 2999" in promoted.output) == (5, True)
    assert run("thaw", *HERE)[0] == 0
    assert run("start", *HERE)[0] == 0
    assert run("thaw", *HERE)[0] == 5
    assert kinds(shelf) == ["freeze", "thaw", "start"]


@pytest.mark.parametrize("until", ["tomorrow", "2020-01-01"])
def test_a_freeze_wants_a_later_moment(shelf: Canary, until: str) -> None:
    code, text = run("freeze", *HERE, "--until", until)
    assert (code, "--until" in text) == (2, True)
    assert kinds(shelf) == []


def test_history_shows_every_step_with_its_evidence(shelf: Canary, hosts: Traffic) -> None:
    started()
    hosts.flow(error=0.3)
    run("run", *HERE, "--once")
    code, text = run("history", *HERE)
    assert code == 0
    assert "→ rollback (step 2) by ann" in text
    assert "worst pair: score" in text
    assert "evidence sha256:" in text
    assert text.index("rollback (step 2)") < text.index("start (step 1)")
    code, document = ask("history", *HERE)
    assert [step["kind"] for step in document["steps"]] == ["rollback", "start"]
    assert document["steps"][0]["rollout"]["canary"]["engine_id"] == ENGINE
    assert shelf.history.steps


def test_the_promotion_of_a_canary_that_was_rolled_back_is_refused(shelf: Canary, hosts: Traffic) -> None:
    started()
    hosts.flow(error=0.3)
    run("run", *HERE, "--once")
    promoted = CliRunner().invoke(main, ["promote", *HERE, "--to", "production", "--engine", ENGINE, "--yes"])
    assert (promoted.exit_code, "its last rollout was rolled back" in promoted.output) == (5, True)
    assert shelf.engine_at("production") == f"tiny-cpu-fp32@{VERSION}"


# --- verify -----------------------------------------------------------------------------------------------------------


def judged(hosts: Traffic) -> str:
    started()
    key = hosts.pairs()
    hosts.arms()
    run("run", *HERE, "--once")
    hosts.flow(error=0.9)
    run("run", *HERE, "--once")
    return key


def test_verify_decides_every_step_again(shelf: Canary, hosts: Traffic) -> None:
    judged(hosts)
    code, text = run("verify", *HERE)
    assert (code, kinds(shelf)) == (0, ["start", "advance", "rollback"]), text
    assert "✓ step 2 (advance): 2 files, 40 pairs" in text
    assert "✓ step 3 (rollback): 4 files, 80 pairs" in text


def test_verify_says_that_a_step_is_of_another_release_s_judge_and_still_checks_its_files(
    shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("tasks.rollout.judging.JUDGE_VERSION", 1)
        key = judged(hosts)
    code, text = run("verify", *HERE)
    assert (code, "its decision was not made again: it was decided by version 1 of the judge" in text) == (0, True)
    ObjectFile(shelf.objects, key).write_bytes(b"changed")
    assert run("verify", *HERE)[0] == 5


def test_verify_names_a_file_that_was_changed_or_is_gone(shelf: Canary, hosts: Traffic) -> None:
    key = judged(hosts)
    file = ObjectFile(shelf.objects, key)
    file.write_bytes(traffic.npz(traffic.pair_columns(40, step=1, error=0.002)))
    code, text = run("verify", *HERE)
    assert (code, f"✕ {key} should have digest sha256:" in text) == (5, True)
    shelf.objects.delete(key)
    code, text = run("verify", *HERE)
    assert (code, f"✕ {key} is missing" in text) == (5, True)


def test_verify_says_where_another_decision_follows(
    shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(hosts)
    monkeypatch.setattr(rollout_judge, "make_judge", lambda rules, outputs: JudgeStandIn(rules, outputs, least=1000))
    code, document = ask("verify", *HERE)
    assert code == 5
    assert document["steps"][0]["faults"] == [
        "its evidence says inconclusive, and pass is written",
        "`advance` needs pass, and its evidence says inconclusive",
    ]
    assert kinds(shelf)


def test_verify_says_where_the_evidence_itself_was_changed(shelf: Canary, hosts: Traffic) -> None:
    judged(hosts)
    digest = shelf.history.steps[1].step.evidence
    assert digest
    shelf.objects.delete(ROLLOUT.evidence_key(digest))
    code, text = run("verify", *HERE)
    assert (code, f"evidence {digest} is missing or was changed; restore it" in text) == (5, True)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_run_goes_on_until_the_rollout_ends(shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    started()
    monkeypatch.setattr(rollout_looks.time, "sleep", lambda _: hosts.flow())
    hosts.flow()
    code, text = run("run", *HERE)
    assert (code, kinds(shelf)) == (0, ["start", "advance", "advance", "finish"]), text


def test_of_two_that_run_at_once_each_step_is_written_once_and_the_other_goes_on(
    shelf: Canary, hosts: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    started()
    lock, pause = threading.Lock(), time.sleep
    fed: set[int] = set()

    def feed(_: float) -> None:
        pause(0.01)
        with lock:
            step = hosts.step
            if step not in fed and hosts.shelf.history.open_rollout is not None:
                fed.add(step)
                hosts.flow()

    monkeypatch.setattr(rollout_looks.time, "sleep", feed)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(_run_quietly())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]
    assert len(shelf.channel("production").moves) == 2


def _run_quietly() -> int:
    try:
        main(["rollout", "run", *HERE, "--every", "1"], standalone_mode=False)
    except SystemExit as end:
        return int(str(end.code or 0))
    return -1
