"""What MLflow is told of channels, and what people are told where it cannot be."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.listeners import mlflow_aliases as mirror
from flows.listeners.mlflow_aliases import MlflowAliases
from flows.session import Session
from flows.settings import Settings
from tasks.errors import EnginegateError
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.promote import carry_out, propose_promotion, propose_rollback
from tasks.release.publish import publish_engine
from tasks.tracking.connection import open_client
from tests.tasks.tiny import cell, make_outcome, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.registry.moves import Move
    from tasks.tracking.registered_models import RegisteredEngine

FIRST, SECOND, FAILING = "0" * 12, "1" * 12, "2" * 12
TARGET = "a100-mig-1g.5gb"
MENDED = "; the registry is right, the next promotion tells it again"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people were told."""
    lines: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _self, text: lines.append(text))
    return lines


@pytest.fixture
def session(tmp_path: Path, said: list[str]) -> Session:
    """A registry with two engines that passed and a store with one that failed; MLflow is a real SQLite store."""
    assert said == []
    session = Session(Settings(home=tmp_path / "home"), Reporter())
    for version in (FIRST, SECOND):
        outcome = make_outcome(session.store, plan=version.encode(), engine=cell(version=version, target=TARGET))
        publish_engine(session.stage_context(), session.registry, manifest_of(session.store, outcome))
    failed = make_outcome(session.store, noise=0.3, plan=b"bad", engine=cell(version=FAILING, target=TARGET))
    session.rejected.keep(manifest_of(session.store, failed))
    return session


@pytest.fixture
def client(session: Session, empty_mlflow: Path) -> Any:
    shutil.copy(empty_mlflow, session.settings.home / "mlflow.db")
    return open_client(session.settings.tracking_uri)


def promote(session: Session, to: ChannelName, version: str, override: str | None = None) -> Move:
    engine = cell(version=version, target=TARGET).engine_id
    proposal = propose_promotion(session.registry, session.rejected, ChannelAddress("tiny", TARGET, to), engine)
    return carry_out(session.registry, session.stage_context(), proposal, reason="a try", override=override, who="ann")


@pytest.fixture
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves are made that MLflow is not told of by itself."""
    monkeypatch.setattr("flows.session.LISTENERS", ())


def aliases_of(session: Session) -> MlflowAliases:
    return MlflowAliases(session.settings, session.registry)


def aliases(client: Any) -> dict[str, str]:
    """The engine behind each alias of the model."""
    return {
        alias: client.get_model_version("tiny", str(version)).tags["enginegate.engine_id"]
        for alias, version in client.get_registered_model("tiny").aliases.items()
    }


def test_aliases_follow_promotions_and_rollbacks(session: Session, client: Any, said: list[str]) -> None:
    first, second = (cell(version=version, target=TARGET).engine_id for version in (FIRST, SECOND))
    promote(session, ChannelName.STAGING, FIRST)
    promote(session, ChannelName.CANARY, FIRST)
    promote(session, ChannelName.STAGING, SECOND)
    assert aliases(client) == {"a100-mig-1g_5gb-staging": second, "a100-mig-1g_5gb-canary": first}
    back = propose_rollback(session.registry, ChannelAddress("tiny", TARGET, ChannelName.STAGING))
    carry_out(session.registry, session.stage_context(), back, reason="", override=None, who="ann")
    assert aliases(client) == {"a100-mig-1g_5gb-staging": first, "a100-mig-1g_5gb-canary": first}
    assert said == [], "where all is well, nothing is said"


def test_a_version_tells_of_the_manifest_and_of_every_override_and_of_no_path(
    session: Session, client: Any, tmp_path: Path
) -> None:
    promote(session, ChannelName.STAGING, FAILING, override="the deadline")
    promote(session, ChannelName.CANARY, FAILING, override="the demo")
    (version,) = client.search_model_versions("name = 'tiny'")
    signed = session.registry.engines.read_signed(cell(version=FAILING, target=TARGET))
    assert version.tags == {
        "enginegate.engine_id": signed.manifest.engine_id,
        "enginegate.manifest": f"engines/tiny/{FAILING}/{TARGET}/fp32/manifest.json",
        "enginegate.manifest_digest": signed.digest,
        "enginegate.verdict": "fail",
        "enginegate.signature": "unsigned",
        "enginegate.override": "the deadline; the demo",
    }
    assert "score" in version.description
    assert str(tmp_path) not in str(dict(version))


@pytest.mark.usefixtures("_untold")
def test_the_address_of_a_bucket_is_told(session: Session, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    move = promote(session, ChannelName.STAGING, FIRST)
    monkeypatch.setattr(Settings, "registry_address", "s3://bucket/prefix")
    aliases_of(session).hear(move)
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags["enginegate.registry"] == "s3://bucket/prefix"


@pytest.mark.usefixtures("_untold")
def test_what_moves_while_mlflow_is_told_is_told_too(
    session: Session, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, told = mirror.mirror_engines, []

    def overtaken(uri: str, model: str, pointed: Mapping[str, RegisteredEngine]) -> None:
        if not told:
            promote(session, ChannelName.STAGING, SECOND)
        told.append(pointed)
        tell(uri, model, pointed)

    move = promote(session, ChannelName.STAGING, FIRST)
    monkeypatch.setattr(mirror, "mirror_engines", overtaken)
    aliases_of(session).hear(move)
    assert aliases(client) == {"a100-mig-1g_5gb-staging": cell(version=SECOND, target=TARGET).engine_id}
    assert len(told) == 2


def test_without_any_mlflow_a_line_says_so_and_nothing_is_made(session: Session, said: list[str]) -> None:
    promote(session, ChannelName.STAGING, FIRST)
    (line,) = said
    assert line.startswith("! MLflow was not told: there is none at sqlite:///")
    assert line.endswith(MENDED)
    assert not (session.settings.home / "mlflow.db").exists()


def test_an_mlflow_that_is_down_is_one_line_without_its_password(
    session: Session, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pass-word@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    promote(session, ChannelName.STAGING, FIRST)
    (line,) = said
    assert line.startswith("! MLflow was not told: MLflow at http://127.0.0.1:9: ")
    assert line.endswith(MENDED)
    assert "\n" not in line
    assert "pass-word" not in line


def test_an_mlflow_that_never_answers_holds_nobody(
    session: Session, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its retries would take over two minutes."""
    monkeypatch.setattr("tasks.registry.listeners.LIMIT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        promote(session, ChannelName.STAGING, FIRST)
    assert said == [f"! MLflow was not told: no answer within 0.5 s{MENDED}"]


def _damage_channel(session: Session) -> None:
    key = ChannelAddress("tiny", TARGET, ChannelName.STAGING).key
    (Path(session.settings.registry_address) / key).write_bytes(b"{}")


def _swap_manifest(session: Session) -> None:
    root = Path(session.settings.registry_address)
    one, other = (root / manifest_key(cell(version=version, target=TARGET)) for version in (FIRST, SECOND))
    one.chmod(0o644)
    one.write_bytes(other.read_bytes())


def _remove_manifest(session: Session) -> None:
    (Path(session.settings.registry_address) / manifest_key(cell(version=FIRST, target=TARGET))).unlink()


@pytest.mark.usefixtures("_untold")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damage_channel, "channel staging of tiny for .* is damaged"),
        (_swap_manifest, "its manifest is that of tiny-"),
        (_remove_manifest, "is not registered"),
    ],
)
def test_what_cannot_be_trusted_is_not_shown(
    session: Session,
    client: Any,
    damage: Callable[[Session], None],
    words: str,
) -> None:
    move = promote(session, ChannelName.STAGING, FIRST)
    damage(session)
    with pytest.raises(EnginegateError, match=words):
        aliases_of(session).hear(move)
    assert client.search_registered_models("name = 'tiny'") == []


def test_a_missed_move_is_caught_up_with_at_the_next(
    session: Session, client: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as down:
        down.setattr("tasks.registry.listeners.LIMIT_S", 0.0)
        down.setattr(mirror, "mirror_engines", lambda *_: Event().wait(5))
        promote(session, ChannelName.STAGING, FIRST)
    assert said == [f"! MLflow was not told: no answer within 0 s{MENDED}"]
    promote(session, ChannelName.CANARY, FIRST)
    first = cell(version=FIRST, target=TARGET).engine_id
    assert aliases(client) == {"a100-mig-1g_5gb-staging": first, "a100-mig-1g_5gb-canary": first}
