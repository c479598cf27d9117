"""`rollout split`, `rollout gate` and the exports for Argo and Flagger, as people use them."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from flows.commands.cli import main
from tasks.objects.folder import LocalObjects
from tasks.rollout import transitions
from tasks.rollout.outside import knative_share
from tests.tasks.release.rollout_host import PLAN, ROLLOUT, RolloutHost
from tests.tasks.serving_host import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = ("tiny", "--target", "cpu")


class MadeUpHaproxy:
    """Answers on a runtime socket as HAProxy does, and keeps weights."""

    def __init__(self, path: Path) -> None:
        self.path, self.weights = path, {"scorer/production": 100, "scorer/canary": 0}
        self.commands: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection:
                command = connection.recv(1000).decode().strip()
                self.commands.append(command)
                connection.sendall(f"{self._answer(command.split())}\n".encode())

    def _answer(self, words: list[str]) -> str:
        if words[0] == "get":
            return f"{self.weights[words[2]]} (initial 100)"
        self.weights[words[2]] = int(words[4])
        return ""

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RolloutHost:
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEGATE_REGISTRY", str(tmp_path / "registry"))
    return RolloutHost(Shop(tmp_path, LocalObjects(tmp_path / "registry")))


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[MadeUpHaproxy]:
    found = MadeUpHaproxy(tmp_path / "admin.sock")
    yield found
    found.close()


def split(haproxy: MadeUpHaproxy) -> tuple[int, Any]:
    options = ("--socket", str(haproxy.path), "--backend", "scorer", "--once", "--json")
    found = CliRunner().invoke(main, ["rollout", "split", *HERE, *options])
    return found.exit_code, json.loads(found.stdout)


def test_weights_follow_the_signed_steps_up_and_back(host: RolloutHost, haproxy: MadeUpHaproxy) -> None:
    assert split(haproxy)[1]["share"] == 0
    host.start(PLAN)
    assert split(haproxy)[1]["weights"] == [256, 0]
    host.step(transitions.advance)
    assert split(haproxy) == (0, {"model": "tiny", "target": "cpu", "share": 5.0, "weights": [244, 12]})
    host.step(transitions.hold)
    assert split(haproxy)[1]["weights"] == [244, 12]
    host.step(transitions.roll_back)
    assert split(haproxy)[1]["weights"] == [256, 0]


def test_on_knative_a_canary_that_was_taken_back_stays_the_newest_revision_at_0(host: RolloutHost) -> None:
    def share() -> float | None:
        return knative_share(host.shop.registry.rollouts.read(ROLLOUT))

    assert share() is None
    host.start(PLAN)
    assert share() == 0
    host.step(transitions.advance)
    assert share() == 5
    host.step(transitions.roll_back)
    assert share() == 0
    host.start(PLAN, rollout_id="ba9876543210")
    for rule in (transitions.advance, transitions.advance, transitions.finish):
        host.step(rule)
    assert share() is None


def test_a_history_that_cannot_be_read_leaves_the_weights(
    host: RolloutHost, haproxy: MadeUpHaproxy, tmp_path: Path
) -> None:
    host.start(PLAN)
    host.step(transitions.advance)
    split(haproxy)
    (tmp_path / "registry" / "rollouts" / "tiny" / "cpu.json").write_bytes(b"damaged")
    code, document = split(haproxy)
    assert (code, "is damaged" in document["error"]) == (5, True)
    assert haproxy.weights == {"scorer/production": 244, "scorer/canary": 12}


def test_a_socket_that_is_away_for_a_while_ends_nothing_but_at_the_start(
    host: RolloutHost, haproxy: MadeUpHaproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start(PLAN)
    host.step(transitions.advance)
    away = haproxy.path.with_name("away")
    turns = iter([lambda: haproxy.path.rename(away), lambda: away.rename(haproxy.path)])

    def sleep(_: float) -> None:
        turn = next(turns, None)
        if turn is None:
            raise SystemExit(0)
        turn()

    monkeypatch.setattr("flows.commands.rollout_outside.time.sleep", sleep)
    command = ["rollout", "split", *HERE, "--socket", str(haproxy.path), "--backend", "scorer"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    assert found.output.count("the weights stay as they are: --socket") == 1
    assert found.output.count("canary has 5 %") == 2
    haproxy.path.rename(away)
    assert CliRunner().invoke(main, command).exit_code == 2


@pytest.mark.parametrize(("command", "kind"), [("argo", "AnalysisTemplate"), ("flagger", "Canary")])
@pytest.mark.usefixtures("host")
def test_an_object_is_printed_for_kubectl(command: str, kind: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["export", command, *HERE, "--gate", "http://gate:8090"])
    assert (found.exit_code, yaml.safe_load(found.stdout)["kind"]) == (0, kind)
    file = tmp_path / "object.yaml"
    CliRunner().invoke(main, ["export", command, *HERE, "--gate", "http://gate:8090", "--to", str(file)])
    assert file.read_text() == found.stdout


@pytest.mark.parametrize("listen", ["8090", "127.0.0.1:http", "127.0.0.1:70000"])
@pytest.mark.usefixtures("host")
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    found = CliRunner().invoke(main, ["rollout", "gate", "--listen", listen])
    assert (found.exit_code, "is not an address" in found.output) == (2, True)
