"""The mirror of channels against a real SQLite store, and against a real MLflow server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from mlflow import set_registry_uri, set_tracking_uri
from mlflow.exceptions import MlflowException
from mlflow.server import app
from mlflow.server.handlers import initialize_backend_stores
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved
from werkzeug.serving import make_server

from tasks.errors import StageError
from tasks.specs import TARGETS
from tasks.tracking import registered_models
from tasks.tracking.connection import open_client
from tasks.tracking.registered_models import RegisteredEngine, alias_of, describe_version, mirror_engines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANNELS = ("candidate", "staging", "canary", "production")


def engine(number: int = 1, **changes: Any) -> RegisteredEngine:
    version = f"{number:012x}"
    fields: dict[str, Any] = {
        "engine_id": f"essay-scorer-cpu-int8@{version}",
        "target": "cpu",
        "manifest": f"engines/essay-scorer/{version}/cpu/int8/manifest.json",
        "manifest_digest": f"sha256:{number:064x}",
        "registry": None,
        "verdict": "pass",
        "deciding": "score mae 0.0016 (≤ 0.01)",
        "signature": "unsigned",
        "override": None,
        "run_id": None,
        "p50_ms": 4.0,
        "batch": 8,
        "size_bytes": 1_234_567,
    }
    return RegisteredEngine(**(fields | changes))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    address = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    open_client(address)
    return address


@pytest.fixture
def client(uri: str) -> Any:
    return open_client(uri)


@pytest.fixture
def model() -> str:
    """A model of the test's own."""
    return f"model-{uuid4().hex[:12]}"


def state(client: Any, model: str) -> Any:
    """All that MLflow shows of a model, times of change included."""
    found = client.get_registered_model(model)
    return dict(found), [dict(version) for version in client.search_model_versions(f"name = '{model}'")]


def aliases(client: Any, model: str) -> dict[str, str]:
    """The engine behind each alias."""
    return {
        alias: client.get_model_version(model, str(version)).tags["enginegate.engine_id"]
        for alias, version in client.get_registered_model(model).aliases.items()
    }


def versions(client: Any, model: str) -> list[Any]:
    return sorted(client.search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))


def test_an_engine_is_one_version_however_many_channels_point_at_it(uri: str, client: Any, model: str) -> None:
    mirror_engines(uri, model, {"cpu-candidate": engine(1), "cpu-staging": engine(1), "t4-staging": engine(2)})
    assert len(versions(client, model)) == 2
    assert aliases(client, model) == {
        "cpu-candidate": engine(1).engine_id,
        "cpu-staging": engine(1).engine_id,
        "t4-staging": engine(2).engine_id,
    }


def test_the_same_told_twice_changes_nothing(uri: str, client: Any, model: str) -> None:
    pointed = {"cpu-candidate": engine(1), "cpu-staging": engine(2, override="the deadline", registry="s3://b/p")}
    mirror_engines(uri, model, pointed)
    before = state(client, model)
    mirror_engines(uri, model, pointed)
    assert state(client, model) == before


def test_an_alias_follows_its_channel_forth_and_back_and_makes_no_second_version(
    uri: str, client: Any, model: str
) -> None:
    for number in (1, 2, 1):
        mirror_engines(uri, model, {"cpu-production": engine(number)})
        assert aliases(client, model) == {"cpu-production": engine(number).engine_id}
    assert len(versions(client, model)) == 2


def test_what_was_missed_and_what_people_broke_is_mended(uri: str, client: Any, model: str) -> None:
    pointed = {"cpu-staging": engine(1), "cpu-canary": engine(2)}
    mirror_engines(uri, model, pointed)
    first, second = (version.version for version in versions(client, model))
    client.set_registered_model_alias(model, "cpu-staging", second)
    client.delete_registered_model_alias(model, "cpu-canary")
    client.delete_model_version_tag(model, first, "enginegate.verdict")
    client.update_model_version(model, first, "no longer the gate's words")
    client.delete_model_version(model, second)
    mirror_engines(uri, model, pointed)
    assert aliases(client, model) == {"cpu-staging": engine(1).engine_id, "cpu-canary": engine(2).engine_id}
    for version, told in zip(versions(client, model), (engine(1), engine(2)), strict=True):
        assert version.tags == told.tags
        assert version.description == describe_version(told, model)


def test_aliases_and_versions_of_others_are_left_alone(uri: str, client: Any, model: str) -> None:
    client.create_registered_model(model, tags={"team": "scoring"}, description="ours")
    own = client.create_model_version(model, "s3://bucket/model", tags={"kind": "pytorch"}, description="by hand")
    client.set_registered_model_alias(model, "champion", own.version)
    mirror_engines(uri, model, {"cpu-staging": engine(1)})
    kept = client.get_registered_model(model)
    assert (kept.description, kept.tags["team"]) == ("ours", "scoring")
    assert str(kept.aliases["champion"]) == str(own.version)
    found = client.get_model_version(model, str(own.version))
    assert (found.tags, found.description) == ({"kind": "pytorch"}, "by hand")


def test_a_version_links_to_its_run_whose_files_can_be_fetched(uri: str, client: Any, model: str) -> None:
    run = client.create_run(client.create_experiment(model)).info.run_id
    mirror_engines(uri, model, {"cpu-staging": engine(1, run_id=run)})
    (version,) = versions(client, model)
    assert (version.run_id, version.source) == (run, f"runs:/{run}")


@pytest.mark.parametrize("run", [None, "0" * 32], ids=["no run", "a run of another MLflow"])
@pytest.mark.parametrize(
    ("registry", "source"),
    [(None, "enginegate:/{}"), ("s3://bucket/prefix", "s3://bucket/prefix/{}"), ("s3://bucket", "s3://bucket/{}")],
)
def test_without_a_run_the_source_names_the_manifest(
    uri: str, client: Any, model: str, run: str | None, registry: str | None, source: str
) -> None:
    mirror_engines(uri, model, {"cpu-staging": engine(1, run_id=run, registry=registry)})
    (version,) = versions(client, model)
    assert (version.run_id or None, version.source) == (None, source.format(engine(1).manifest))


def test_tags_name_what_is_known_and_no_more() -> None:
    plain = engine(1).tags
    assert plain == {
        "enginegate.engine_id": "essay-scorer-cpu-int8@000000000001",
        "enginegate.manifest": "engines/essay-scorer/000000000001/cpu/int8/manifest.json",
        "enginegate.manifest_digest": "sha256:" + "0" * 63 + "1",
        "enginegate.verdict": "pass",
        "enginegate.signature": "unsigned",
    }
    more = engine(1, registry="s3://bucket", override="the deadline").tags
    assert more == plain | {"enginegate.registry": "s3://bucket", "enginegate.override": "the deadline"}


def test_a_description_tells_what_counts_and_people_s_words_stay_words() -> None:
    text = describe_version(engine(1, verdict="fail", override="a `tick`\n\n# a heading", registry="s3://b/p/"), "m")
    lines = text.split("\n\n")
    assert lines[0].startswith("essay-scorer-cpu-int8@000000000001: verdict **fail** (`score mae 0.0016 (≤ 0.01)`)")
    assert lines[1] == "**A rule was overridden:** `a 'tick' # a heading`"
    assert f"`s3://b/p/{engine(1).manifest}`, `{engine(1).manifest_digest}`" in lines[2]
    assert "`enginegate history m --target cpu`" in lines[3]
    assert "overridden" not in describe_version(engine(1), "m")


def test_every_channel_of_every_target_has_an_alias_of_its_own_that_mlflow_takes() -> None:
    slices = [f"{gpu}-mig-{g}g.{gb}gb" for gpu in ("a100", "h100", "h200") for g, gb in ((1, 5), (15, 0), (1, 50))]
    places = [(target, channel) for target in (*TARGETS, *slices) for channel in CHANNELS]
    names = [alias_of(*place) for place in places]
    assert len(set(names)) == len(places)
    for name in names:
        _validate_model_alias_name(name)
        _validate_model_alias_name_reserved(name)


def test_mirrors_that_run_at_once_leave_one_version(
    uri: str, client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have looked, and found nothing, before the first makes its version."""
    create, together = registered_models._create_version, Barrier(4)  # noqa: SLF001 - the moment of the race

    def create_together(*arguments: Any) -> Any:
        together.wait(30)
        return create(*arguments)

    monkeypatch.setattr(registered_models, "_create_version", create_together)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: mirror_engines(uri, model, {"cpu-staging": engine(1)}), range(4)))
    assert [version.tags for version in versions(client, model)] == [engine(1).tags]
    assert aliases(client, model) == {"cpu-staging": engine(1).engine_id}


def test_an_alias_that_another_mirror_made_at_the_same_moment_is_moved_all_the_same(
    uri: str, client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = type(client).set_registered_model_alias, [MlflowException("UNIQUE constraint failed")]

    def lose_once(self: Any, *arguments: Any) -> None:
        if lost:
            raise lost.pop()
        real(self, *arguments)

    monkeypatch.setattr(type(client), "set_registered_model_alias", lose_once)
    mirror_engines(uri, model, {"cpu-staging": engine(1)})
    assert lost == []
    assert aliases(client, model) == {"cpu-staging": engine(1).engine_id}


def test_of_two_versions_that_a_killed_mirror_left_the_first_is_used(uri: str, client: Any, model: str) -> None:
    client.create_registered_model(model)
    for _ in range(2):
        client.create_model_version(model, "enginegate:/x", tags=engine(1).tags)
    mirror_engines(uri, model, {"cpu-staging": engine(1)})
    first = versions(client, model)[0]
    assert str(client.get_registered_model(model).aliases["cpu-staging"]) == str(first.version)
    assert len(versions(client, model)) == 2


def test_an_engine_of_another_registry_with_the_same_id_is_another_version(uri: str, client: Any, model: str) -> None:
    other = replace(engine(1), manifest_digest="sha256:" + "f" * 64)
    mirror_engines(uri, model, {"cpu-candidate": engine(1), "cpu-staging": other})
    assert len(versions(client, model)) == 2


def test_nothing_is_made_where_there_is_no_local_mlflow(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"there is none at sqlite:///.*mlflow\.db \(set MLFLOW_TRACKING_URI"):
        mirror_engines(f"sqlite:///{tmp_path}/mlflow.db", "m", {"cpu-staging": engine(1)})
    assert list(tmp_path.iterdir()) == []


def test_no_channel_makes_no_model(uri: str, client: Any, model: str) -> None:
    mirror_engines(uri, model, {})
    assert client.search_registered_models(f"name = '{model}'") == []


def test_a_server_that_is_down_is_an_error_that_hides_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match=r"^MLflow at http://127\.0\.0\.1:9: showing the channels of m ") as caught:
        mirror_engines("http://ann:pass-word@127.0.0.1:9", "m", {"cpu-staging": engine(1)})
    assert "pass-word" not in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server, in a thread of this process: it checks sources that a local store takes as they are."""
    database = f"sqlite:///{tmp_path_factory.mktemp('server')}/mlflow.db"
    open_client(database)
    with pytest.MonkeyPatch.context() as patch:
        # It makes its own stores those of every client in this process, by variables too.
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(name, "unset again below")
        initialize_backend_stores(database, database, default_artifact_root="mlflow-artifacts:/")
        set_tracking_uri(None)
        set_registry_uri(None)
    serving = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()


def test_a_server_takes_it_all_and_shows_no_path_of_a_host(server: str, model: str) -> None:
    client = open_client(server)
    assert client._registry_uri == server  # noqa: SLF001 - else no server is asked
    run = client.create_run(client.create_experiment(model)).info.run_id
    pointed = {
        "cpu-candidate": engine(1, run_id=run),
        "a100-mig-1g_5gb-staging": engine(2, run_id="0" * 32),
        "cpu-production": engine(3, registry="s3://bucket/prefix", override="the deadline"),
    }
    mirror_engines(server, model, pointed)
    before = state(client, model)
    mirror_engines(server, model, pointed)
    assert state(client, model) == before
    assert aliases(client, model) == {alias: told.engine_id for alias, told in pointed.items()}
    assert versions(client, model)[0].source == f"runs:/{run}"
    assert "file:" not in str(before)
    assert str(os.getcwd()) not in str(before)  # noqa: PTH109 - as text
