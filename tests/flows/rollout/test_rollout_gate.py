"""The gate over HTTP: of all that may become of a rollout, only a finished one is a pass."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from flows.rollout.rollout_gate import RolloutGate, gate_server
from tasks.errors import InputError, StageError
from tasks.objects.folder import LocalObjects
from tasks.registry.registry import Registry
from tasks.rollout import transitions
from tests.tasks.registry.keys import signing_as
from tests.tasks.release.rollout_host import RolloutHost
from tests.tasks.serving_host import Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLACE = "/tiny/cpu"


@pytest.fixture
def host(tmp_path: Path) -> RolloutHost:
    return RolloutHost(Shop(tmp_path, LocalObjects(tmp_path / "registry")))


@pytest.fixture
def ask(host: RolloutHost) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """Asks the gate over HTTP: status and document."""
    with gate_server(RolloutGate(lambda: host.shop.registry), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def run(path: str, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(f"http://127.0.0.1:{server.server_port}{path}", data, timeout=30) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)

        yield run
        server.shutdown()


def to_the_end(host: RolloutHost) -> None:
    for _ in range(2):
        host.step(transitions.advance)
    host.step(transitions.finish)


WAYS: dict[str, tuple[list[Any], str, tuple[int, int, int]]] = {
    "in shadow": ([], "running", (409, 409, 409)),
    "with users": ([transitions.advance], "running", (409, 200, 409)),
    "held": ([transitions.advance, transitions.hold], "inconclusive", (409, 409, 409)),
    "aborted": ([transitions.abort], "fail", (409, 409, 200)),
    "rolled back": ([transitions.advance, transitions.roll_back], "fail", (409, 409, 200)),
    "superseded": ([transitions.supersede], "inconclusive", (409, 409, 409)),
    "finished": ([transitions.advance, transitions.advance, transitions.finish], "pass", (200, 200, 409)),
}


@pytest.mark.parametrize("way", WAYS)
def test_only_a_finished_rollout_passes(
    host: RolloutHost, ask: Callable[..., tuple[int, dict[str, Any]]], way: str
) -> None:
    rules, outcome, agreed = WAYS[way]
    host.start()
    for rule in rules:
        host.step(rule)
    status, document = ask(PLACE)
    assert (status, document["outcome"]) == (200, outcome)
    asked = [ask(f"{PLACE}{question}", b"{}") for question in ("", "/increase", "/rollback")]
    assert tuple(status for status, _ in asked) == agreed
    assert {document["outcome"] for _, document in asked} == {outcome}


def test_an_older_engine_s_success_is_none_of_the_one_that_is_asked_for(
    host: RolloutHost, ask: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    host.start()
    to_the_end(host)
    own = f"?engine={quote(host.canary.engine_id)}"
    assert ask(f"{PLACE}{own}", b"")[0] == 200
    other = "?engine=tiny-cpu-fp32%40999999999999"
    status, document = ask(f"{PLACE}{other}")
    assert (status, document["outcome"]) == (200, "running")
    assert [ask(f"{PLACE}{question}{other}", b"")[0] for question in ("", "/increase", "/rollback")] == [409] * 3


@pytest.mark.parametrize("path", ["/", "/tiny", "/tiny/cpu/pass", "/tiny/cpu/rollback", "/tiny/nowhere", "/../cpu"])
def test_what_is_no_rollout_is_not_found(ask: Callable[..., tuple[int, dict[str, Any]]], path: str) -> None:
    assert ask(path)[0] == 404
    assert ask(PLACE) == (404, {"outcome": "error", "error": "rollout of tiny for cpu: nothing was ever rolled out"})


def test_a_registry_that_is_away_or_not_trusted_is_no_answer(host: RolloutHost, tmp_path: Path) -> None:
    host.start()

    def away() -> Registry:
        raise StageError("s3://engines: cannot be reached")

    untrusted = Registry(host.shop.objects, signing_as(tmp_path))
    for open_registry in (away, lambda: untrusted):
        for method in ("GET", "POST"):
            status, document = RolloutGate(open_registry).answer(method, PLACE)
            assert (status, document["outcome"]) == (503, "error")


def test_a_port_that_is_taken_is_told(host: RolloutHost) -> None:
    gate = RolloutGate(lambda: host.shop.registry)
    with gate_server(gate, "127.0.0.1", 0) as server, pytest.raises(InputError, match="cannot be had"):
        gate_server(gate, "127.0.0.1", server.server_port)
