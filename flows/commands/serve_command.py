"""`enginegate serve`: a real Triton on this machine, on the engine of a channel."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from flows.commands.command import CHANNEL, Document, FilledPath, command_of
from flows.commands.pull_job import PullJob
from flows.commands.pull_service import served_lines, triton_switch
from flows.commands.pull_words import describe, outcome_lines
from tasks.errors import StageError
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.serving.triton_server import LOOPBACK, Ports, TritonServer, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flows.session import Session

_PORT = click.IntRange(min=1, max=65535)
_FREE = "Left out, one that is free."


@click.command()
@click.argument("model")
@click.option("--target", default="cpu", show_default=True, metavar="TARGET", help="What this host serves on.")
@click.option("--channel", type=CHANNEL, default="production", show_default=True)
@click.option(
    "--to", "folder", type=FilledPath(), metavar="DIR", help="The model repository; left out, one in ENGINEGATE_HOME."
)
@click.option("--host", default=LOOPBACK, show_default=True, help="The address of this host to listen on.")
@click.option("--http-port", type=_PORT, metavar="PORT", help=_FREE)
@click.option("--grpc-port", type=_PORT, metavar="PORT", help=_FREE)
@click.option("--metrics-port", type=_PORT, metavar="PORT", help=_FREE)
@command_of
def serve(
    session: Session,
    model: str,
    target: str,
    channel: str,
    folder: Path | None,
    host: str,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
) -> tuple[Document, int]:
    """Serve the engine that a channel of MODEL points at with Triton, on this machine, until Ctrl-C.

    For a laptop and for tests: everybody who reaches the address can use the model and the server's repository API. The
    server is that of `make triton`, or of ENGINEGATE_TRITON. With --json, one line says where it answers as soon as it
    does.
    """
    address = ChannelAddress(model, target, ChannelName(channel))
    repository = (folder or session.settings.home / "serving" / f"{model}-{target}-{channel}").absolute()
    server = TritonServer(
        find_server(session.settings.triton), repository, ports=Ports(http_port, grpc_port, metrics_port), host=host
    )
    with _ends_at_signals():
        repository.mkdir(parents=True, exist_ok=True)
        with server:
            lay_out(session, address, repository, server.http)
            _tell(session, address, server)
            code = server.wait()
            raise StageError(
                f"Triton ended by itself with exit code {code}; correct what the end of its log, {server.log}, says:\n"
                f"{server.last_lines()}"
            )


def lay_out(session: Session, address: ChannelAddress, repository: Path, server: str) -> None:
    """Pull the channel's engine into the Triton repository, and have the server at the URL `server` serve it.

    As `enginegate pull MODEL --target T --channel C --to DIR --layout triton --server URL`: all that is already in
    place, and loaded, stays; what is in place and not loaded is loaded.

    Raises:
        EnginegateError: as that command.
    """
    service = triton_switch(session, repository, address.model, server)
    job = PullJob(session, service.folder, address, session.settings.time_limit_s, check=False, service=service)
    pulled = session.reporter.step(f"pull {address.model} {address.channel.value}", job.run, describe, tells_why=False)
    for line in (*outcome_lines(pulled), *served_lines(service)):
        session.reporter.marked(line)


def _tell(session: Session, address: ChannelAddress, server: TritonServer) -> None:
    document = {
        "event": "serving",
        "model": address.model,
        "http": server.http,
        "grpc": server.grpc,
        "metrics": server.metrics,
        "repository": str(server.repository),
        "log": str(server.log),
    }
    session.reporter.marked(f"✓ {address} is served; Ctrl-C ends it")
    for name in ("http", "grpc", "metrics", "log"):
        session.reporter.say(f"  {name:8}{document[name]}")
    session.reporter.say(f"  try     curl {server.http}/v2/models/{address.model}")
    if click.get_current_context().params["as_json"]:
        click.echo(json.dumps(document))


@contextmanager
def _ends_at_signals() -> Iterator[None]:
    """End this command with exit code 0 at SIGINT and SIGTERM, after all that is to be left was left."""

    def end(*_: object) -> NoReturn:
        raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
