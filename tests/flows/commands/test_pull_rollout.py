"""What a watch tells of a rollout; the server is made up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flows.commands.pull_job import PullJob
from flows.commands.pull_watch import Watcher
from flows.console import Reporter
from flows.session import Session
from flows.settings import Settings
from tasks.errors import InputError, StageError
from tasks.objects.folder import LocalObjects
from tasks.rollout import transitions
from tasks.serving.sampling import write_shard
from tests.tasks.release.rollout_host import ID, ROLLOUT, RolloutHost
from tests.tasks.serving_host import PRODUCTION, Shop

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RolloutHost:
    monkeypatch.setenv("ENGINEGATE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setattr("tasks.serving.engine_layout.router_files", lambda: {"1/model.py": b"router"})
    return RolloutHost(Shop(tmp_path, LocalObjects(tmp_path / "registry")))


def watcher_of(host: RolloutHost, name: str | None = "host-1") -> Watcher:
    switch = host.switch
    job = PullJob(Session(Settings(), Reporter()), switch.folder, PRODUCTION, 30.0, check=False, service=switch)
    return Watcher(job, 30.0, as_json=True, host=name)


def looked(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What one look told programs, and what health says after it."""
    capsys.readouterr()
    watcher.look()
    watcher.look_beside()
    assert watcher._health is not None  # noqa: SLF001 - `run` writes it after each look, and ends the process
    watcher._health.write_look()  # noqa: SLF001 - the same
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def health(host: RolloutHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.repository.state / "health.json").read_bytes())["rollout"]
    return found


def test_a_watch_brings_the_canary_in_follows_its_weight_and_takes_it_out(
    host: RolloutHost, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = watcher_of(host)
    assert [one["event"] for one in looked(watcher, capsys)] == ["pulled"]
    host.start()
    (document,) = looked(watcher, capsys)
    assert (document["event"], document["id"], document["weight"]) == ("rollout", ID, 0)
    host.step(transitions.advance)
    (document,) = looked(watcher, capsys)
    assert (document["step"], document["weight"]) == (2, 5)
    assert health(host)["canary"] == host.canary.engine_id
    text = (host.repository.state / "health.prom").read_text()
    assert '\nenginegate_followed_rollout_weight{model="tiny",target="cpu",channel="production"} 5.0\n' in text
    assert looked(watcher, capsys) == []
    host.step(transitions.roll_back)
    (document,) = looked(watcher, capsys)
    assert document["id"] is None
    assert host.is_clean()


def test_a_canary_that_does_not_come_up_is_told_once_in_health_and_as_evidence(
    host: RolloutHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.server.refusals = {"tiny--0-": "CUDA out of memory"}
    watcher = watcher_of(host)
    looked(watcher, capsys)
    host.start()
    (document,) = looked(watcher, capsys)
    assert document["crashed"]
    assert looked(watcher, capsys) == []
    assert "CUDA out of memory" in health(host)["note"]
    (entry,) = host.shop.objects.list(ROLLOUT.shards(ID))
    assert entry.key.startswith(f"rollouts/tiny/cpu/{ID}/host-1/")


def test_a_registry_that_is_away_is_told_once_and_what_is_served_stays(
    host: RolloutHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watcher_of(host)
    looked(watcher, capsys)
    host.start()
    host.step(transitions.advance)
    looked(watcher, capsys)
    before = host.route
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise StageError("the registry cannot be reached")

        patch.setattr(LocalObjects, "read", fail)
        assert {one["event"] for one in looked(watcher, capsys)} == {"error"}
        assert looked(watcher, capsys) == []
        assert "cannot be reached" in health(host)["error"]
    assert looked(watcher, capsys)[0]["event"] == "recovered"
    assert (host.route, health(host)["error"]) == (before, None)


def test_a_name_that_no_host_can_have_is_refused_at_once(host: RolloutHost) -> None:
    with pytest.raises(InputError, match="--host-name"):
        watcher_of(host, "a/b")


def test_a_watch_uploads_what_was_sampled_and_says_once_that_a_bucket_is_away(
    host: RolloutHost, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    job = watcher_of(host).job
    watcher = Watcher(job, 30.0, as_json=True, host="host-1", samples_to=str(kept))
    write_shard(host.repository.state / "traffic" / "2026-11-30", "0900-scorer", {"x": np.ones((2, 3))})
    with monkeypatch.context() as patch:
        patch.setattr("tasks.objects.folder.LocalObjects.upload", refuse)
        found = [*looked(watcher, capsys), *looked(watcher, capsys)]
    assert [one["error"] for one in found if one["event"] == "error"] == ["samples of traffic wait on this host: away"]
    (uploaded,) = (one for one in looked(watcher, capsys) if one["event"] == "samples")
    assert (uploaded["shards"], uploaded["to"]) == (1, str(kept))
    assert [path.name.startswith("host-1-0900-") for path in kept.rglob("*.npz")] == [True]
    assert [one for one in looked(watcher, capsys) if one["event"] == "samples"] == []


def refuse(*_: object) -> bool:
    raise StageError("away")
