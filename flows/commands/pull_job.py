"""One pull of `enginegate pull`, which a watch runs again and again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.commands.pull_service import call_hook
from flows.commands.pull_words import offer_lines
from flows.promotion.gate_basis import GateBasis, basis_of
from tasks.errors import EnginegateError, RefusedError
from tasks.process.child import ignore_progress
from tasks.records import Cell, EngineManifest
from tasks.release.pull import Milestone, Offer, Pulled, pull_engine, require_same_channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session import Session
    from tasks.registry.moves import ChannelAddress
    from tasks.release.serving_folder import ServingFolder
    from tasks.release.triton_switch import TritonSwitch


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
