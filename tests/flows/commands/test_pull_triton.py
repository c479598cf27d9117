"""`enginegate pull --layout triton` as people and supervisors see it; no server is needed for these."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from flows.commands.pull_health import Health
from tasks.objects.folder import LocalObjects
from tasks.serving.triton_repository import TritonRepository
from tests.tasks.serving_host import FIRST, PRODUCTION, SECOND, Shop

if TYPE_CHECKING:
    from pathlib import Path

PULL = ("pull", "tiny", "--target", "cpu", "--to", "repository", "--layout", "triton")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A registry to which the settings lead, with a router in place of the packaged one."""
    monkeypatch.setenv("ENGINEGATE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setattr("tasks.serving.engine_layout.router_files", lambda: {"1/model.py": b"router"})
    shop = Shop(tmp_path, LocalObjects(tmp_path / "registry"))
    shop.offer(FIRST, plan=shop.onnx_plan())
    return shop


def test_a_repository_is_laid_out_with_the_router_the_engine_and_its_route(shop: Shop) -> None:
    found = CliRunner().invoke(main, [*PULL, "--json"])
    assert found.exit_code == 0, found.output
    document, root = json.loads(found.stdout), shop.root / "repository"
    (engine,) = document["models"]
    assert sorted(path.name for path in root.iterdir()) == [".enginegate", "tiny", engine]
    route = json.loads((root / "tiny" / "route.json").read_bytes())
    assert (route["move"], route["plans"][0]["model"], route["batch"]) == (1, engine, "batch")
    assert route["outputs"] == {"score": {"dtype": "float32", "axes": ["batch"]}}
    assert (root / engine / "warmup" / "batch8-features").stat().st_size == 8 * 4 * 4
    shop.offer(SECOND, plan=shop.onnx_plan())
    assert CliRunner().invoke(main, PULL).exit_code == 0
    assert not (root / engine).exists()
    assert TritonRepository(root, "tiny").engines()[0].startswith("tiny--2-")


@pytest.mark.usefixtures("shop")
def test_an_engine_that_cannot_be_laid_out_leaves_the_old_one_and_says_so(shop: Shop) -> None:
    assert CliRunner().invoke(main, PULL).exit_code == 0
    before = TritonRepository(shop.root / "repository", "tiny")
    route, engines = before.read_route(), before.engines()
    shop.offer(SECOND, plan=b"no graph")
    found = CliRunner().invoke(main, PULL)
    assert found.exit_code == 5
    assert "move 1, tiny-cpu-fp32@111111111111 goes on serving" in " ".join(found.output.split())
    assert (before.read_route(), before.engines()) == (route, engines)


@pytest.mark.usefixtures("shop")
def test_a_pull_of_files_alone_does_not_write_into_a_repository(shop: Shop) -> None:
    assert CliRunner().invoke(main, PULL).exit_code == 0
    before = sorted(path.name for path in (shop.root / "repository").iterdir())
    plain = CliRunner().invoke(main, PULL[:6])
    assert plain.exit_code == 2
    assert "is a Triton repository, in which tiny is served; pull with --layout triton" in " ".join(
        plain.output.split()
    )
    assert sorted(path.name for path in (shop.root / "repository").iterdir()) == before


@pytest.mark.usefixtures("shop")
def test_a_hook_that_fails_is_told_and_stops_nothing(tmp_path: Path) -> None:
    code = "import os, sys; open('told', 'w').write(os.environ['ENGINEGATE_MOVE']); sys.exit('no mail')"
    found = CliRunner().invoke(main, [*PULL, "--after-switch", shlex.join([sys.executable, "-c", code])])
    assert found.exit_code == 0
    assert "ended with 1: no mail; the switch stands" in " ".join(found.output.split())
    assert (tmp_path / "told").read_text() == "1"
    (tmp_path / "told").unlink()
    assert CliRunner().invoke(main, [*PULL, "--after-switch", "false"]).exit_code == 0
    assert not (tmp_path / "told").exists()


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples-to", "kept"], "--samples-to is of --watch"),
        (["--samples-to", "kept", "--watch", "--layout", "plain"], "--samples-to is of --layout triton"),
        (["--samples-to", "gs://kept", "--watch"], "may be s3://bucket/prefix or a folder"),
    ],
)
def test_samples_are_uploaded_by_a_watch_of_a_router_to_an_address(options: list[str], said: str) -> None:
    found = CliRunner().invoke(main, [*PULL, *options])
    assert (found.exit_code, said in " ".join(found.output.split())) == (2, True), found.output


@pytest.mark.usefixtures("shop")
def test_a_server_without_the_layout_and_one_that_is_gone_are_told() -> None:
    plain = CliRunner().invoke(main, [*PULL[:6], "--server", "http://127.0.0.1:9"])
    assert (plain.exit_code, "--server is of --layout triton" in plain.output) == (2, True)
    gone = CliRunner().invoke(main, [*PULL, "--server", "http://127.0.0.1:9"])
    assert (gone.exit_code, "no server answers at http://127.0.0.1:9" in gone.output) == (1, True)


def test_health_says_what_is_served_and_what_failed_last(shop: Shop) -> None:
    assert CliRunner().invoke(main, PULL).exit_code == 0
    repository = TritonRepository(shop.root / "repository", "tiny")
    health = Health(repository, PRODUCTION)
    health.write_look()
    assert json.loads((repository.state / "health.json").read_bytes())["last_failure"] is None
    health.note_failure("the registry is gone", 1)
    health.write_look()
    found = json.loads((repository.state / "health.json").read_bytes())
    assert (found["move"], found["failing"], found["last_failure"]["exit_code"]) == (1, True, 1)
    text = (repository.state / "health.prom").read_text()
    labels = '{model="tiny",target="cpu",channel="production"}'
    assert f"\nenginegate_served_move{labels} 1\n" in text
    assert text.endswith(f"enginegate_failing{labels} 1\n")
    health.note_recovery()
    health.write_look()
    assert not json.loads((repository.state / "health.json").read_bytes())["failing"]
