"""`enginegate pull --watch`: follows a channel until a signal ends it."""

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

from flows.commands.pull_health import Health
from flows.commands.pull_rollout import RolloutWatch
from flows.commands.pull_samples import SampleWatch
from flows.commands.pull_service import served_document, served_lines
from flows.commands.pull_words import describe, document_of, outcome_lines
from tasks.errors import EnginegateError, ExitCode, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.commands.command import Document
    from flows.commands.pull_job import PullJob
    from tasks.release.pull import Pulled


# A move that was refused is tried again ever more rarely: each try may read and run all of an engine.
SLOWEST_S = 600.0
# Downloads have threads that may wait for a server; whoever ends the command does not wait for them.
GRACE_S = 2


@dataclass
class Watcher:
    """Follows a channel: pulls when it moved, and goes on with the last good engine when something is wrong."""

    job: PullJob
    every_s: float
    as_json: bool
    host: str | None = None
    samples_to: str | None = None
    arm_from: str | None = None
    _pulled: str | None = None
    _error: str | None = None
    _tried: str | None = None
    _pause: int = 0
    _left: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _health: Health | None = None
    _rollout: RolloutWatch | None = None
    _samples: SampleWatch | None = None

    def __post_init__(self) -> None:
        job = self.job
        self._rollout = RolloutWatch.of(
            job.session, job.service, job.address, self.host, job.limit_s, self.arm_from, self._tell
        )
        self._samples = SampleWatch.of(job.session, job.service, job.address, self.host, self.samples_to, self._tell)
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
                self.look_beside()
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

    def look_beside(self) -> None:
        """Follow the model's rollout, and upload what was seen and sampled; whatever fails, all stays as it is."""
        rollout, samples = self._rollout, self._samples
        if rollout is not None:
            _guarded(lambda: rollout.look(self.job.session.open_registry()), rollout.fail)
        if samples is not None:
            _guarded(samples.look, samples.fail)

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


def _guarded(look: Callable[[], None], fail: Callable[[str], None]) -> None:
    """Do what comes after the channel; whatever fails is told to `fail`, and what is served is served on."""
    try:
        look()
    except (EnginegateError, OSError) as error:
        fail(str(error))
    except Exception as error:  # noqa: BLE001
        fail(f"unexpected: {type(error).__name__}: {error}; please report it")


def _leave() -> NoReturn:
    """End the process with 0 here: while the interpreter shuts down, a signal that still comes would end it instead."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError, ValueError, RuntimeError
        ):  # nobody reads it any more, or a signal came while it was written
            stream.flush()
    os._exit(0)
