"""`enginegate serve` with the real server: what it says, how it ends, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner

from flows.commands import serve_command
from flows.commands.cli import main
from tasks.errors import RefusedError
from tests.tasks.tiny_triton import infer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 60
# The command as it is, but for the pull: a tiny model is put there instead.
COMMAND = """
import sys, time
from flows.commands import serve_command
from flows.commands.cli import main
from tests.tasks.tiny_triton import ask, write_model

def lay_out(session, address, repository, server):
    if address.model == "slow":
        print("pulling", flush=True)
        time.sleep(600)
    write_model(repository)
    ask(f"{server}/v2/repository/models/adder/load", {})

serve_command.lay_out = lay_out
main(sys.argv[1:])
"""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send it a signal; return its exit code and what it said, when nothing of it is left."""
    below = psutil.Process(process.pid).children(recursive=True)
    assert below, "a server"
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with started("adder", "--to", str(tmp_path / "models"), "--json") as process:
        served: dict[str, Any] = json.loads(line_of(process))
        assert infer(served["http"], [1.0]) == [2.0]
        assert "successfully loaded 'adder'" in Path(served["log"]).read_text()
        code, said = end(process, number)
    assert code == 0, said
    for name in ("http", "grpc", "metrics", "log"):
        assert served[name] in said, "people see what scripts do"


def test_a_ctrl_c_while_it_pulls_ends_it_with_0(tmp_path: Path) -> None:
    with started("slow", "--to", str(tmp_path / "models")) as process:
        assert line_of(process) == "pulling\n"
        code, said = end(process, signal.SIGINT)
    assert code == 0, said


def test_a_server_that_dies_ends_it_with_the_end_of_its_log(tmp_path: Path) -> None:
    with started("adder", "--to", str(tmp_path / "models"), "--json") as process:
        log = json.loads(line_of(process))["log"]
        (server,) = psutil.Process(process.pid).children()
        server.kill()
        _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert f"Triton ended by itself with exit code -9; correct what the end of its log, {log}, says" in said


def test_a_pull_that_is_refused_ends_the_server_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    asked: list[object] = []

    def refuse(_session: object, *rest: object) -> None:
        asked.extend(rest)
        raise RefusedError("the signature is not there; sign it")

    monkeypatch.setattr(serve_command, "lay_out", refuse)
    handler = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(main, ["serve", "adder", "--channel", "staging"])
    assert result.exit_code == 5
    assert "the signature is not there" in result.output
    assert str(asked[0]) == "staging of adder for cpu"
    assert asked[1] == tmp_path / "home" / "serving" / "adder-cpu-staging"
    assert str(asked[2]).startswith("http://127.0.0.1:")
    assert [each for each in psutil.Process().children(recursive=True) if "triton" in each.name()] == []
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_port_that_is_taken_is_refused_in_words(tmp_path: Path) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        result = CliRunner().invoke(main, ["serve", "adder", "--to", str(tmp_path / "models"), "--grpc-port", port])
    assert result.exit_code == 2
    assert f"--grpc-port: port {port} of 127.0.0.1 cannot be had" in " ".join(result.output.split())


def test_without_a_server_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINEGATE_TRITON", str(tmp_path))
    result = CliRunner().invoke(main, ["serve", "adder", "--to", str(tmp_path / "models")])
    assert result.exit_code == 2
    assert "has no bin/tritonserver" in result.output
    assert not (tmp_path / "models").exists()
