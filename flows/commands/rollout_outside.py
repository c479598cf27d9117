"""`enginegate rollout split` and `gate`: what stands before the servers follows a rollout, or asks about it."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.commands.rollout_steps import rollout_options
from flows.rollout.rollout_gate import RolloutGate, gate_server
from tasks.errors import EnginegateError, InputError
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.haproxy import HaproxyBackend
from tasks.rollout.outside import share_outside

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session

_MOST_S = 3600


@click.command()
@rollout_options
@click.option("--socket", type=FilledPath(), required=True, metavar="PATH", help="HAProxy's `stats socket`.")
@click.option("--backend", required=True, metavar="NAME", help="The backend that both servers are of.")
@click.option("--production", default="production", show_default=True, metavar="SERVER", help="Its name there.")
@click.option("--canary", default="canary", show_default=True, metavar="SERVER", help="Its name there.")
@click.option("--every", type=click.IntRange(1, _MOST_S), default=10, show_default=True, metavar="SECONDS")
@click.option("--once", is_flag=True, help="Look once, and end.")
@command_of
def split(
    session: Session,
    model: str,
    target: str,
    socket: Path,
    backend: str,
    production: str,
    canary: str,
    every: int,
    once: bool,
) -> tuple[Document, int]:
    """Keep the weights of two servers in HAProxy as MODEL's rollout says, by its runtime socket.

    The canary gets its share while the rollout is open, and nothing before and after. Where the registry cannot be
    read, or says what no trusted key signed, the weights stay as they are.
    """
    address, told, looked = RolloutAddress(model, target), "", False
    servers = HaproxyBackend(socket, backend, production, canary)
    while True:
        try:
            share = share_outside(session.open_registry().rollouts.read(address))
            changed = servers.split(share)
        except EnginegateError as error:
            # Later HAProxy may be started again, and its socket is away meanwhile.
            if once or (isinstance(error, InputError) and not looked):
                raise
            if str(error) != told:
                session.reporter.error(f"the weights stay as they are: {error}")
            told = str(error)
        else:
            if changed or told or not looked:
                session.reporter.marked(f"✓ {backend}: {canary} has {share:g} %, and {production} the rest")
            told = ""
            if once:
                return {"model": model, "target": target, "share": share, "weights": servers.read()}, 0
        looked = True
        time.sleep(every)


@click.command()
@click.option(
    "--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT", help="Port 0: any free one."
)
@command_of
def gate(session: Session, listen: str) -> tuple[Document, int]:
    """Answer over HTTP whether a rollout passed, for Argo Rollouts and Flagger, until a signal ends it.

    GET /MODEL/TARGET says how it is; POST /MODEL/TARGET is 200 only where it finished. It reads the registry alone.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the highest port
        raise InputError(f"--listen {listen!r}: is not an address; give HOST:PORT, as 127.0.0.1:8090")
    session.open_registry()  # settings that are at fault end it here
    with gate_server(RolloutGate(session.open_registry), host, int(port)) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        session.reporter.marked(f"✓ http://{host}:{server.server_port}/MODEL/TARGET answers")
        server.serve_forever()
    return {"listened": f"{host}:{server.server_port}"}, 0
