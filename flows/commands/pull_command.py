"""`enginegate pull`: an engine from the registry to the host that serves it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import click

from flows.commands.command import CHANNEL, Document, FilledPath, command_of
from flows.commands.pull_health import Health
from flows.commands.pull_rollout import RolloutWatch
from flows.commands.pull_service import call_hook, read_hook, served_document, served_lines, triton_switch
from flows.commands.pull_words import describe, document_of, offer_lines, outcome_lines
from flows.promotion.gate_basis import GateBasis, basis_of
from tasks.errors import EnginegateError, ExitCode, InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.records import Cell, EngineManifest
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.pull import Milestone, Offer, Pulled, pull_engine, require_same_channel
from tasks.release.serving_folder import ServingFolder
from tasks.serving.triton_repository import require_no_repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.session import Session
    from tasks.release.triton_switch import TritonSwitch

EVERY_S = 30.0
# A move that was refused is tried again ever more rarely: each try may read and run all of an engine.
SLOWEST_S = 600.0
# Downloads have threads that may wait for a server; whoever ends the command does not wait for them.
GRACE_S = 2
_MONTH_S = 30 * 24 * 3600
_SECONDS = click.FloatRange(min=0, min_open=True, max=_MONTH_S)


@click.command()
@click.argument("model")
@click.option("--target", required=True, metavar="TARGET", help="What this host serves on: cpu, t4, a100, ….")
@click.option("--channel", type=CHANNEL, default="production", show_default=True)
@click.option("--to", "folder", type=FilledPath(), required=True, metavar="DIR", help="Serve what lies in DIR/current.")
@click.option(
    "--check", is_flag=True, help="Run the engine on its smoke inputs first, and keep it only if it is right."
)
@click.option(
    "--at-least",
    metavar="MOVE",
    help="Refuse a history without this move, 7 or 7:3f2a91bc4d5e: for hosts that remember nothing themselves.",
)
@click.option("--watch", is_flag=True, help="Follow the channel until SIGTERM or SIGINT, and exit with 0 then.")
@click.option(
    "--every",
    type=click.FloatRange(min=1, max=_MONTH_S),
    default=EVERY_S,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
@click.option(
    "--time-limit", type=_SECONDS, metavar="SECONDS", help="Longest time of --check, and of waiting (default 1800)."
)
@click.option(
    "--layout",
    type=click.Choice(["plain", "triton"]),
    default="plain",
    show_default=True,
    help="triton: DIR is a Triton model repository, where models of several pulls may lie.",
)
@click.option(
    "--server", metavar="URL", help="The Triton server on DIR, as http://127.0.0.1:8000: try there, and switch it."
)
@click.option(
    "--host-name", "host", metavar="NAME", help="What evidence of a rollout is filed under: this host's name."
)
@click.option("--after-switch", "hook", metavar="COMMAND", help="Run this after each switch to another engine.")
@command_of
def pull(
    session: Session,
    model: str,
    target: str,
    channel: str,
    folder: Path,
    *,
    check: bool,
    at_least: str | None,
    watch: bool,
    every: float,
    time_limit: float | None,
    layout: str,
    server: str | None,
    host: str | None,
    hook: str | None,
) -> tuple[Document, int]:
    """Pull the engine that a channel of MODEL points at to this host, and make it DIR/current.

    Signatures, history, verdict, this host's compatibility and every file's digest are checked first. Whatever is
    wrong, the engine that is current stays. The one before it is kept as DIR/previous.

    With --watch --json, each change and each new error is one line of JSON, whose `event` is `pulled`, `error`, or
    `recovered` where the channel is in order again and did not move.

    With --layout triton, DIR/MODEL is served under the model's name, and with --watch and --server the rollouts of
    MODEL are followed too; see docs/serving.md.
    """
    if server is not None and layout != "triton":
        raise InputError("--server is of --layout triton; add that, or leave it out")
    if layout == "plain":
        require_no_repository(folder)
    address = ChannelAddress(model, target, ChannelName(channel))
    limit_s = time_limit or session.settings.time_limit_s
    milestone = None if at_least is None else Milestone.parse(at_least)
    service = None if layout == "plain" else triton_switch(session, folder, model, server)
    place = ServingFolder(folder) if service is None else service.folder
    job = PullJob(session, place, address, limit_s, check, milestone, service, read_hook(hook))
    if watch:
        Watcher(job, every, as_json=click.get_current_context().params["as_json"], host=host).run()
    pulled = session.reporter.step(f"pull {model} {channel}", job.run, describe, tells_why=False)
    for line in (*outcome_lines(pulled), *served_lines(service)):
        session.reporter.marked(line)
    job.run_hook(pulled)
    return {**document_of(pulled, job.basis), **served_document(service)}, 0


@dataclass
class PullJob:
    """One pull that can be run again: what, to where, and whether the engine is tried out.

    `basis` is what the verdict of the engine that was offered last rests on.
    """

    session: Session
    folder: ServingFolder
    address: ChannelAddress
    limit_s: float
    check: bool
    at_least: Milestone | None = None
    service: TritonSwitch | None = None
    hook: tuple[str, ...] = ()
    basis: GateBasis | None = None
    _shown: Offer | None = None

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> Pulled:
        """Pull, and show what the channel offers; errors are those of `tasks.release.pull.pull_engine`."""
        if self.service is not None:
            self.service.require_free()
        return pull_engine(
            self.session.open_registry(),  # a watcher must see that a key was withdrawn
            self.folder,
            self.address,
            wait_s=self.limit_s,
            check_limit_s=self.limit_s if self.check else None,
            at_least=self.at_least,
            service=self.service,
            on_offer=self._show_offer,
            on_wait=self._tell_wait,
            on_progress=on_progress or ignore_progress,
        )

    def run_hook(self, pulled: Pulled) -> str | None:
        """Run the hook where a switch was made; what went wrong with it is told, stops nothing, and is returned."""
        if not self.hook or not (pulled.moved or (self.service is not None and self.service.switched)):
            return None
        problem = call_hook(self.hook, pulled, self.limit_s)
        if problem is not None:
            self.session.reporter.marked(f"! {problem}")
        return problem

    def _tell_wait(self, limit_s: float) -> None:
        self.session.reporter.say(
            f"another pull is at work in {self.folder.root}; waiting for it, {limit_s:,.0f} s at most"
        )

    def read_move(self) -> str | None:
        """Digest of the move that the channel made last; None where it made none."""
        moves = self.session.open_registry().channels.read(self.address).moves
        return moves[-1].digest if moves else None

    def require_settings(self) -> None:
        """Raise InputError where the registry's settings are at fault, or the folder follows another channel."""
        self.session.open_registry()
        if self.service is not None:
            self.service.repository.require_own()
        with suppress(RefusedError):  # a damaged state.json: the pull says so
            require_same_channel(self.address, self.folder.read_accepted())

    def _show_offer(self, offer: Offer) -> None:
        if offer != self._shown:
            self._shown = offer
            self.basis = basis_of(offer.signed.manifest, self._engine_before(offer), "before")
            for line in offer_lines(offer, self.basis):
                self.session.reporter.marked(line)

    def _engine_before(self, offer: Offer) -> EngineManifest | None:
        """What the channel pointed at before; None where there was nothing, or it cannot be read any more."""
        before = offer.move.move.before
        with suppress(EnginegateError):
            return None if before is None else self.session.open_registry().engines.read_manifest(Cell.parse(before))
        return None


@dataclass
class Watcher:
    """Follows a channel: pulls when it moved, and goes on with the last good engine when something is wrong."""

    job: PullJob
    every_s: float
    as_json: bool
    host: str | None = None
    _pulled: str | None = None
    _error: str | None = None
    _tried: str | None = None
    _pause: int = 0
    _left: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _health: Health | None = None
    _rollout: RolloutWatch | None = None

    def __post_init__(self) -> None:
        job = self.job
        self._rollout = RolloutWatch.of(job.session, job.service, job.address, self.host, job.limit_s, self._tell)
        if job.service is not None:
            self._health = Health(job.service.repository, job.address, self._rollout)

    def run(self) -> NoReturn:
        """Look again and again, until a signal ends the process with exit code 0.

        Settings that are at fault, or a folder that follows another channel, end it too: waiting mends neither.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            self.job.require_settings()
        except InputError as error:
            self._tell_error(str(error), error.exit_code)
            raise SystemExit(error.exit_code) from None
        try:
            while not self._stopped.is_set():
                self.look()
                self.look_at_rollout()
                if self._health is not None:
                    self._health.write_look()
                self._stopped.wait(self.every_s)
        finally:
            if self._stopped.is_set():
                _leave()
        raise SystemExit(0)

    def _stop(self, *_: object) -> NoReturn:
        self._stopped.set()
        signal.signal(signal.SIGALRM, lambda *_: _leave())
        signal.alarm(GRACE_S)
        raise SystemExit(0)

    def look(self) -> None:
        """Read the channel once, and pull if it moved since the last pull that succeeded."""
        try:
            move = self.job.read_move()
            if move is not None and move == self._pulled:
                self._tell_recovery()
            elif self._is_due(move):
                self._tell_pull(self.job.run())
        except EnginegateError as error:
            self._tell_error(str(error), error.exit_code)
        except OSError as error:
            self._tell_error(
                f"{error.strerror or error}: {error.filename or self.job.folder.root}", ExitCode.UNEXPECTED
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the last good engine is served on
            self._tell_error(f"unexpected: {type(error).__name__}: {error}; please report it", ExitCode.UNEXPECTED)

    def look_at_rollout(self) -> None:
        """Follow the model's rollout, and upload what was seen of it; whatever fails, all stays as it is."""
        if self._rollout is None:
            return
        try:
            self._rollout.look(self.job.session.open_registry())
        except (EnginegateError, OSError) as error:
            self._rollout.fail(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, what is served is served on
            self._rollout.fail(f"unexpected: {type(error).__name__}: {error}; please report it")

    def _is_due(self, move: str | None) -> bool:
        """Whether to try a move now: after each try that went wrong, twice as many looks pass."""
        if move != self._tried:
            self._tried, self._pause, self._left = move, 0, 0
        if self._left:
            self._left -= 1
            return False
        self._left, self._pause = self._pause, min(2 * self._pause + 1, int(SLOWEST_S // self.every_s))
        return True

    def _tell_pull(self, pulled: Pulled) -> None:
        self._pulled, self._tried, self._error = pulled.offer.move.digest, None, None
        if self._health is not None:
            self._health.note_recovery()
        for line in (f"✓ {describe(pulled)}", *outcome_lines(pulled), *served_lines(self.job.service)):
            self.job.session.reporter.marked(line)
        self._tell({"event": "pulled", **document_of(pulled, self.job.basis), **served_document(self.job.service)})
        problem = self.job.run_hook(pulled)
        if problem is not None:
            self._tell({"event": "hook", "error": problem})

    def _tell_recovery(self) -> None:
        if self._error is not None:
            self._error = None
            if self._health is not None:
                self._health.note_recovery()
            self.job.session.reporter.marked(f"✓ channel {self.job.address} is in order again, and did not move")
            self._tell({"event": "recovered"})

    def _tell_error(self, message: str, code: int) -> None:
        if self._health is not None:
            self._health.note_failure(message, code)
        if message != self._error:
            self._error = message
            self.job.session.reporter.error(message)
            self._tell({"event": "error", "error": message, "exit_code": code})

    def _tell(self, document: Document) -> None:
        if self.as_json:
            click.echo(json.dumps(document))


def _leave() -> NoReturn:
    """End the process with 0 here: while the interpreter shuts down, a signal that still comes would end it instead."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError, ValueError, RuntimeError
        ):  # nobody reads it any more, or a signal came while it was written
            stream.flush()
    os._exit(0)
