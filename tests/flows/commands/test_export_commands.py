"""`enginegate export kserve` as people and scripts use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from flows.commands.cli import main
from tests.tasks.published_schema import find_faults

if TYPE_CHECKING:
    from pathlib import Path

ASKED = ("export", "kserve", "essay-scorer", "--target", "t4", "--image", "registry.local/triton:1")


@pytest.fixture(autouse=True)
def _bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEGATE_REGISTRY", "s3://engines/prod")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*ASKED, *arguments])


def test_what_is_printed_meets_the_published_schema_and_is_nothing_else() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    runtime, service = yaml.safe_load_all(result.stdout)
    assert find_faults(runtime, "V1alpha1ServingRuntime") + find_faults(service, "V1beta1InferenceService") == []
    assert "s3://engines/prod" in result.stdout


def test_a_file_gets_the_same_text_as_json_has(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    result = run("--to", str(file), "--channel", "canary", "--node-label", "pool=gpu", "--json")
    document = json.loads(result.stdout)
    assert document == {"file": str(file), "yaml": file.read_text()}
    assert "canary" in document["yaml"]
    assert next(iter(yaml.safe_load_all(document["yaml"])))["spec"]["nodeSelector"] == {"pool": "gpu"}


@pytest.mark.parametrize(
    ("setting", "value", "arguments", "why"),
    [
        ("REGISTRY", "/srv/registry", (), "which a pod cannot reach"),
        ("TRUST", "keys", (), "pods would verify no signature"),
        ("ACTOR", "ann", ("--node-label", "gpu"), "is no label"),
        ("ACTOR", "ann", ("--to", ""), "is empty"),
        ("ACTOR", "ann", ("--target", "t5"), "is no target"),
    ],
)
def test_what_could_not_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, arguments: tuple[str, ...], why: str
) -> None:
    monkeypatch.setenv(f"ENGINEGATE_{setting}", value)
    result = run(*arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = run("--to", str(tmp_path / "nowhere" / "serving.yaml"))
    assert result.exit_code == 1
    assert "cannot be written" in result.output
