from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.session import Session
from flows.settings import Settings, read_settings
from tasks.errors import InputError
from tasks.objects.folder import LocalObjects
from tasks.registry.rollouts import StepKind
from tasks.rollout import taking_back, transitions
from tests.tasks.canary import ROLLOUT, Canary, by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def served(status: int = 204) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on loopback that keeps what it is told."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/secret", heard
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _self, text: lines.append(text))
    return lines


def shelf_of(tmp_path: Path, url: str | None) -> Canary:
    """A canary whose registry is that of a session with this webhook."""
    session = Session(Settings(home=tmp_path / "home", rollout_webhook=url), Reporter())
    shelf = Canary(LocalObjects(tmp_path / "home" / "registry"), session.stage_context()).stock()
    shelf.registry = session.registry
    return shelf


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.listeners.rollout_webhook import RolloutWebhook  # noqa: PLC0415

    monkeypatch.setattr("flows.session.LISTENERS", ())
    monkeypatch.setattr("flows.session.STEP_LISTENERS", (RolloutWebhook,))


def test_it_is_told_once_of_each_end_and_hold(tmp_path: Path, said: list[str]) -> None:
    with served() as (url, heard):
        shelf = shelf_of(tmp_path, url)
        shelf.start()
        for rule in (transitions.advance, transitions.hold, transitions.resume):
            shelf.step(rule, by(reason="a look"))
        taking_back.abort(shelf.registry, ROLLOUT, by(reason="the phones ring"))
    assert [one["kind"] for one in heard] == ["hold", "abort"]
    assert heard[1]["text"] == ("rollout of tiny for cpu: abort tiny-cpu-fp16@0123456789ab at 1: the phones ring")
    assert (heard[1]["status"], heard[1]["who"], heard[1]["number"]) == ("aborted", "ann", 5)
    assert said == []


def test_a_dead_url_stops_nothing_and_shows_no_secret(tmp_path: Path, said: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/hook/secret"
    shelf = shelf_of(tmp_path, url)
    shelf.start()
    assert shelf.step(transitions.hold, by()).kind is StepKind.HOLD
    (line,) = said
    assert line.startswith("! the webhook was not told: 127.0.0.1:")
    assert line.endswith("; the registry is right, the rollout goes on")
    assert "secret" not in line


def test_an_answer_that_is_no_success_is_told(tmp_path: Path, said: list[str]) -> None:
    with served(500) as (url, heard):
        shelf = shelf_of(tmp_path, url)
        shelf.start()
        shelf.step(transitions.hold, by())
    assert len(heard) == 1
    assert "answered 500; see ENGINEGATE_ROLLOUT_WEBHOOK" in said[0]


def test_without_a_url_nobody_is_told(tmp_path: Path, said: list[str]) -> None:
    shelf = shelf_of(tmp_path, None)
    shelf.start()
    shelf.step(transitions.hold, by())
    assert said == []


@pytest.mark.parametrize("url", ["ftp://example.org", "file:///etc/passwd", "example.org"])
def test_only_http_is_a_webhook(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ENGINEGATE_ROLLOUT_WEBHOOK", url)
    with pytest.raises(InputError, match="ENGINEGATE_ROLLOUT_WEBHOOK"):
        read_settings()
