from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.listeners.mlflow_rollouts import MlflowRollouts
from flows.session import Session
from flows.settings import Settings
from tasks.objects.folder import LocalObjects
from tasks.rollout import taking_back, transitions
from tasks.tracking.connection import open_client
from tests.tasks.canary import ROLLOUT, Canary, by

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def session(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("flows.session.LISTENERS", ())
    monkeypatch.setattr("flows.session.STEP_LISTENERS", (MlflowRollouts,))
    (tmp_path / "home").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "home" / "mlflow.db")
    return Session(Settings(home=tmp_path / "home"), Reporter())


def shelf_of(session: Session, run: str | None) -> Canary:
    shelf = Canary(LocalObjects(session.settings.home / "registry"), session.stage_context())
    shelf.production, shelf.canary = shelf.register("fp32"), shelf.register("fp16", mlflow_run=run)
    for name, engine in (("canary", shelf.production), ("production", shelf.production), ("canary", shelf.canary)):
        shelf.point(name, engine)
    shelf.registry = session.registry
    return shelf


def test_the_run_of_the_canary_shows_how_its_rollout_stands(session: Session) -> None:
    client: Any = open_client(session.settings.tracking_uri)
    run = client.create_run("0").info.run_id
    shelf = shelf_of(session, run)
    shelf.start()
    assert client.get_run(run).data.tags["enginegate.rollout"] == "running at shadow"
    shelf.step(transitions.advance, by(evidence=f"sha256:{1:064x}"))
    taking_back.abort(shelf.registry, ROLLOUT, by(reason="the phones ring"))
    tags = client.get_run(run).data.tags
    assert tags["enginegate.rollout"] == "aborted at 1"
    assert tags["enginegate.rollout_step"].startswith("3 (abort) at ")
    assert tags["enginegate.rollout_reason"] == "the phones ring"


def test_an_engine_without_a_run_and_one_that_is_gone_stop_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _self, text: said.append(text))
    shelf = shelf_of(session, "gone")
    shelf.start()
    (line,) = said
    assert line.startswith("! MLflow was not told: MLflow at sqlite:///")
    assert line.endswith("; the registry is right, the rollout goes on")
