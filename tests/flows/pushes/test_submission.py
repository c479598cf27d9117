"""`enginegate submit` and the deployments of infra/prefect.yaml, against a Prefect server on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import re
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from filelock import FileLock
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, WorkPoolCreate
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from flows.commands.submit_command import submit as command
from flows.pushes import submission as submit
from flows.pushes.journal import EngineResult, State
from flows.pushes.submission import DEPLOYMENT, Push, exit_code_of, read_results, submit_push, wait_for
from flows.pushes.verdict_table import ModelResult, commit_statuses, verdict_table
from tasks.errors import EnginegateError, InputError, StageError
from tests.shared_servers import shared_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import FlowRun

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = "https://github.com/acme/models"
OLD = "a" * 40
EVENT_LIMIT_S = 30
HOSTILE = "`x` | <script>alert(1)</script> [a](http://evil.org) @acme #1 https://evil.org\n## b \\"
PASSED = EngineResult(engine_id="a-cpu-fp32@0123456789ab", verdict="pass", registered=True)
FAILED = EngineResult(engine_id="a-cpu-int8@0123456789ab", verdict="fail", reason="mae 0.2 is above 0.1")
ENTRIES = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
ENTRY = next(entry for entry in ENTRIES if entry["name"] == "convert-commit")


def result(**changes: Any) -> ModelResult:
    about = {"model": "a", "directory": "m/a", "version": "0123456789ab", "state": State.DONE, "exit_code": 0}
    return ModelResult(**{**about, **changes})


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The server with the deployment, made once: several workers may run this module."""
    made = shared_folder(request, tmp_path_factory) / "convert-commit deployed"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            asyncio.run(deploy(prefect_url))
            made.touch()
    return prefect_url


async def deploy(url: str) -> None:
    """What `prefect deploy` makes of the entry, without importing its flow."""
    async with PrefectClient(url) as client:
        await client.create_work_pool(WorkPoolCreate(name="cpu", type="process"))
        flow = await client.create_flow_from_name("convert-commit")
        made = await client.create_deployment(flow, ENTRY["name"], work_pool_name="cpu", enforce_parameter_schema=False)
        for number, spec in enumerate(ENTRY["triggers"]):
            trigger = DeploymentEventTrigger.model_validate({**spec, "name": f"push {number}"})
            trigger.set_deployment_id(made)
            await client.create_automation(trigger.as_automation())


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(submit, "POLL_S", 0.05)
    with temporary_settings({PREFECT_API_URL: url}), SyncPrefectClient(url) as client:
        yield client


@pytest.fixture
def push() -> Push:
    """A push that no other test sends."""
    return Push(ADDRESS, f"{uuid.uuid4().hex}01234567", OLD, "main")


def leave(client: SyncPrefectClient, run: FlowRun, models: list[ModelResult]) -> None:
    """What the flow leaves."""
    data = json.dumps([model.model_dump(mode="json") for model in models])
    artifact = ArtifactCreate(key="convert-commit-models", type="table", data=data, flow_run_id=run.id)
    client.create_artifact(artifact)


def test_the_same_push_sent_twice_is_one_run_and_another_is_another(client: SyncPrefectClient, push: Push) -> None:
    first = submit_push(client, push)
    assert submit_push(client, push).id == first.id
    assert submit_push(client, Push(f"{ADDRESS}/", push.commit, OLD)).id == first.id
    assert submit_push(client, Push(ADDRESS, push.commit, "b" * 40)).id != first.id
    assert first.parameters == {"repository": ADDRESS, "commit": push.commit, "old": OLD, "ref": "main"}
    assert f"commit:{push.commit[:12]}" in first.tags
    client.set_flow_run_state(first.id, Completed(), force=True)
    assert submit_push(client, push).id == first.id


@pytest.mark.parametrize("ending", [Failed, Crashed, Cancelled])
def test_a_push_whose_run_went_wrong_gets_one_more_run(client: SyncPrefectClient, push: Push, ending: Any) -> None:
    first = submit_push(client, push)
    client.set_flow_run_state(first.id, ending(message="x"), force=True)
    second = submit_push(client, push)
    assert second.id != first.id
    assert submit_push(client, push).id == second.id


def test_waiting_ends_with_the_run_or_with_the_time(client: SyncPrefectClient, push: Push) -> None:
    run = submit_push(client, push)
    with pytest.raises(StageError, match=r"no verdicts within 0\.2 s: run .* is Scheduled; it goes on"):
        wait_for(client, run.id, 0.2)
    client.set_flow_run_state(run.id, Running(), force=True)
    client.set_flow_run_state(run.id, Completed(), force=True)
    assert wait_for(client, run.id, 9).id == run.id
    client.delete_flow_run(run.id)
    with pytest.raises(StageError, match="was deleted in Prefect"):
        wait_for(client, run.id, 9)


def test_the_results_are_those_that_the_run_left(client: SyncPrefectClient, push: Push) -> None:
    run = submit_push(client, push)
    left = [result(engines=(PASSED, FAILED), exit_code=3), result(model=None, version=None, state=State.FAILED)]
    leave(client, run, left)
    assert read_results(client, run) == tuple(left)
    with pytest.raises(EnginegateError, match="left no verdicts"):
        read_results(client, submit_push(client, Push(ADDRESS, push.commit)))


@pytest.mark.parametrize("data", ["[{}]", "no JSON", '[{"model": "a", "state": "new"}]'])
def test_a_table_that_cannot_be_read_is_no_pass(client: SyncPrefectClient, push: Push, data: str) -> None:
    run = submit_push(client, push)
    client.create_artifact(ArtifactCreate(key="x", type="table", data=data, flow_run_id=run.id))
    with pytest.raises(EnginegateError, match="left no verdicts"):
        read_results(client, run)


def test_a_run_that_failed_without_verdicts_ends_as_its_error_says(client: SyncPrefectClient, push: Push) -> None:
    run = submit_push(client, push)
    message = "Flow run encountered an exception: InputError: /x: has no commit 'y'; fetch it"
    client.set_flow_run_state(run.id, Failed(message=message), force=True)
    with pytest.raises(InputError, match=r"left no verdicts: /x: has no commit 'y'; fetch it"):
        read_results(client, wait_for(client, run.id, 9))


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, [*arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_command_waits_and_writes_table_statuses_and_exit_code(
    client: SyncPrefectClient, push: Push, tmp_path: Path
) -> None:
    arguments = (ADDRESS, "--commit", push.commit, "--from", OLD)
    code, text = invoke(*arguments, "--summary", str(tmp_path / "summary"))
    assert (code, "run" in text) == (0, True)
    run = submit_push(client, push)
    leave(client, run, [result(engines=(PASSED, FAILED), exit_code=3)])
    client.set_flow_run_state(run.id, Completed(), force=True)
    files = ("--summary", str(tmp_path / "summary"), "--statuses", str(tmp_path / "statuses"))
    code, text = invoke(*arguments, "--wait", "--json", *files)
    assert code == 3
    assert str(run.id) in text
    summary = (tmp_path / "summary").read_text()
    assert summary.startswith(f"Commit `{push.commit[:12]}` was sent to Prefect")
    assert "| ✕ | `a` | `0123456789ab` | done | `a-cpu-int8` | fail | `mae 0.2 is above 0.1` |" in summary
    lines = [json.loads(line) for line in (tmp_path / "statuses").read_text().splitlines()]
    assert lines == [
        {"state": "failure", "context": "enginegate", "description": "exit code 3"},
        {"state": "success", "context": "enginegate/a-cpu-fp32", "description": "pass"},
        {"state": "failure", "context": "enginegate/a-cpu-int8", "description": "fail: mae 0.2 is above 0.1"},
    ]


def test_without_verdicts_the_commit_gets_an_error_and_no_success(
    client: SyncPrefectClient, push: Push, tmp_path: Path
) -> None:
    run = submit_push(client, push)
    client.set_flow_run_state(run.id, Completed(), force=True)
    code, _ = invoke(ADDRESS, "--commit", push.commit, "--from", OLD, "--wait", "--statuses", str(tmp_path / "s"))
    assert code == 1
    (status,) = [json.loads(line) for line in (tmp_path / "s").read_text().splitlines()]
    assert (status["state"], status["context"]) == ("error", "enginegate")
    assert "left no verdicts" in status["description"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ext::sh -c x", "--commit", OLD),
        ("https://ann:secret@github.com/acme/models", "--commit", OLD),
        ("models", "--commit", OLD),
        (ADDRESS, "--commit", "main"),
        (ADDRESS, "--commit=--output=x"),
        (ADDRESS, "--commit", OLD, "--from", "HEAD~1"),
    ],
)
@pytest.mark.usefixtures("client")
def test_what_is_no_push_is_not_sent(arguments: tuple[str, ...]) -> None:
    code, text = invoke(*arguments)
    assert code == 2
    assert "secret" not in text


def test_without_a_server_that_lasts_nothing_is_sent() -> None:
    code, text = invoke(ADDRESS, "--commit", OLD)
    assert code == 2
    assert "PREFECT_API_URL: is not set" in text


def post_push(client: SyncPrefectClient, name: str, payload: dict[str, Any], event: str = "enginegate.push") -> None:
    """What the line of infra/README.md posts."""
    body = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(timezone.utc).isoformat(),
        "event": event,
        "resource": {"prefect.resource.id": f"enginegate.repository.{name}"},
        "payload": payload,
    }
    assert client.request("POST", "/events", json=[body]).status_code == 204


def runs_of(client: SyncPrefectClient, commit: str, wanted: int) -> list[FlowRun]:
    """The runs of a commit, once there are that many."""
    deadline = time.monotonic() + EVENT_LIMIT_S
    while True:
        newest = client.read_flow_runs(limit=200, offset=0, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
        runs = [run for run in newest if run.parameters.get("commit") == commit]
        if len(runs) >= wanted or time.monotonic() > deadline:
            return runs
        time.sleep(0.1)


def test_a_posted_push_starts_a_run_with_what_it_says_and_nothing_of_it_is_a_template(
    client: SyncPrefectClient, push: Push
) -> None:
    hostile = "{{ 7 * 7 }}{% raw %}"
    post_push(client, "models", {"repository": ADDRESS, "before": OLD, "after": push.commit, "ref": hostile})
    (run,) = runs_of(client, push.commit, 1)
    assert run.parameters == {"repository": ADDRESS, "commit": push.commit, "old": OLD, "ref": hostile}
    assert run.deployment_id == client.read_deployment_by_name(DEPLOYMENT).id
    second = f"{uuid.uuid4().hex}76543210"
    post_push(client, "models", {}, event="another.event")
    post_push(client, "other", {"repository": ADDRESS, "after": second})
    (run,) = runs_of(client, second, 1)
    assert run.parameters == {"repository": ADDRESS, "commit": second, "old": None, "ref": None}


def test_every_deployment_of_issue_7_is_a_flow_with_these_parameters() -> None:
    found = [entry for entry in ENTRIES if entry["name"] in {"convert-commit", "watch", "feedback"}]
    assert len(found) == 3
    for entry in found:
        (trigger,) = entry.get("triggers", [{}])
        module, _, name = entry["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert {*entry.get("parameters", {}), *trigger.get("parameters", {})} <= set(flow.parameters.properties)


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([0, 0], 0), ([0, 4], 4), ([3, 4], 3), ([3, 2], 2), ([5, 2], 5), ([1, 5, 3], 1)]
)
def test_the_exit_code_is_the_worst_model_s(codes: list[int], expected: int) -> None:
    assert exit_code_of([result(exit_code=code) for code in codes]) == expected


def test_a_broken_model_decides_the_exit_code() -> None:
    broken = result(model=None, version=None, state=State.FAILED, exit_code=2, reason="model.yaml: bad")
    assert exit_code_of([result(exit_code=1), broken]) == 2


def test_texts_of_strangers_stay_texts_in_the_table() -> None:
    engine = EngineResult(engine_id=HOSTILE, verdict=HOSTILE, reason=HOSTILE)
    models = [result(model=HOSTILE, reason=HOSTILE * 9, engines=(engine,)), result(model=None, directory=HOSTILE)]
    lines = verdict_table("c" * 40, models).splitlines()
    assert len(lines) == 2 + 2 + 2, "a heading, a blank line, the table's two lines, a row each"
    assert {line.count("|") for line in lines[2:]} == {8}
    for line in lines[4:]:
        outside = re.sub(r"`[^`]*`", "", line)
        assert not set("<>[]@#:`\\") & set(outside), outside


def test_statuses_fit_github_and_only_a_pass_is_a_success() -> None:
    bad = EngineResult(engine_id=f"{'a' * 300}@x", verdict="inconclusive", reason="r" * 300)
    unknown = EngineResult(engine_id="a-cpu-fp16@x", verdict="splendid")
    models = [
        result(engines=(PASSED, bad, unknown)),
        result(model=None, state=State.FAILED, reason="model.yaml: a\x1b\nb"),
        result(model="b", state=State.SUPERSEDED, reason="commit 1 is newer"),
    ]
    assert commit_statuses([], 0) == [{"state": "success", "context": "enginegate", "description": "exit code 0"}]
    overall, *said = commit_statuses(models, 4)
    assert overall["state"] == "failure"
    assert [one["state"] for one in said] == ["success", "error", "error", "failure", "error"]
    assert max(len(one["description"]) for one in said) == 140
    assert max(len(one["context"]) for one in said) <= 255
    assert said[3] == {
        "state": "failure",
        "context": "enginegate/m/a",
        "description": "failed: model.yaml: a\\x1b b",
    }


@pytest.mark.parametrize("ref", ["a\u2028b", "x" * 300, ""])
def test_a_branch_that_cannot_be_shown_keeps_no_push_back(push: Push, ref: str) -> None:
    assert "ref" not in dataclasses.replace(push, ref=ref).parameters()
