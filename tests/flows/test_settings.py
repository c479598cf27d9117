from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings import Settings, read_settings
from tasks.errors import InputError
from tasks.objects.location import open_objects


def test_without_any_variable_all_lies_in_one_folder_of_the_current_one(tmp_path: Path) -> None:
    settings = read_settings()
    home = tmp_path / ".enginegate"
    assert settings.store_path == home / "store"
    assert settings.registry_address == str(home / "registry")
    assert settings.artifact_root == home / "mlartifacts"
    assert settings.tracking_uri == f"sqlite:///{home}/mlflow.db"
    assert (settings.time_limit_s, settings.benchmark_s) == (1800.0, 3.0)
    assert (settings.runner_wait_s, settings.runner_silence_s) == (900.0, 120.0)
    assert list(tmp_path.iterdir()) == []


def test_variables_move_each_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINEGATE_HOME", "elsewhere")
    monkeypatch.setenv("ENGINEGATE_REGISTRY", "/registry")
    monkeypatch.setenv("ENGINEGATE_TIME_LIMIT_S", "12.5")
    monkeypatch.setenv("ENGINEGATE_BENCHMARK_S", "1")
    settings = read_settings()
    assert settings.store_path == tmp_path / "elsewhere" / "store"
    assert settings.registry_address == "/registry"
    monkeypatch.setenv("ENGINEGATE_REGISTRY", "registry")
    assert read_settings().registry_address == str(tmp_path / "registry")
    monkeypatch.setenv("ENGINEGATE_REGISTRY", "s3://bucket/prefix")
    assert read_settings().registry_address == "s3://bucket/prefix"
    assert (settings.time_limit_s, settings.benchmark_s) == (12.5, 1.0)
    monkeypatch.setenv("ENGINEGATE_STORE", "store")
    assert read_settings().store_path == tmp_path / "store"


def test_mlflow_s_own_variable_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert read_settings().tracking_uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize("name", ["ENGINEGATE_HOME", "ENGINEGATE_STORE", "ENGINEGATE_REGISTRY", "MLFLOW_TRACKING_URI"])
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = [read_settings().store_path, read_settings().registry_address, read_settings().tracking_uri]
    monkeypatch.setenv(name, "")
    assert [read_settings().store_path, read_settings().registry_address, read_settings().tracking_uri] == expected


@pytest.mark.parametrize(
    "name",
    [
        *("ENGINEGATE_TIME_LIMIT_S", "ENGINEGATE_BENCHMARK_S"),
        *("ENGINEGATE_RUNNER_WAIT_S", "ENGINEGATE_RUNNER_SILENCE_S"),
    ],
)
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e999"])
def test_a_limit_that_is_none_is_refused_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=rf"^{name}: .*given: "):
        read_settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().home = Path("x")


@pytest.mark.parametrize("name", ["ENGINEGATE_TRUST", "ENGINEGATE_SIGNING_KEY"])
@pytest.mark.parametrize("value", ["", "  "])
def test_a_blank_key_does_not_switch_signatures_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{name}: is blank; name a file, or unset it"):
        read_settings()


@pytest.mark.parametrize("address", ["s3:/bucket/p", "s3:bucket/p", "s3//bucket/p", "S3://bucket/p", "https://b/p"])
def test_an_address_that_was_mistyped_is_no_folder(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ENGINEGATE_REGISTRY", address)
    with pytest.raises(InputError, match="and may be s3://bucket/prefix or a folder"):
        open_objects(read_settings().registry_address)
