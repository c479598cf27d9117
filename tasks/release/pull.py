"""Takes the engine that a channel points at to the host that serves it.

Everything that can be known from channel and manifest is checked before anything is written: signatures, the chain of
moves, that nothing was rewound, that the verdict follows from its evidence, that this host can load the engine. Then
each file is checked against its digest while it is written, and the engine is tried out if that is asked for. Only
then does a link move to it; whatever goes wrong before, the last good engine stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tasks.backends import backend_of
from tasks.backends.compatibility import refuse_elsewhere
from tasks.errors import InputError, RefusedError, StageError
from tasks.objects.files import writing_to
from tasks.process.child import ignore_progress
from tasks.records import Cell, EngineManifest
from tasks.registry.chained import holds_record
from tasks.registry.evidence import parts_of
from tasks.release.engine_files import place_engine
from tasks.release.next_step import advise_step
from tasks.release.serving_folder import Accepted, ServingFolder, folder_name
from tasks.release.smoke import SmokeReport, SmokeRequest, run_smoke
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelAddress, Move, SignedMove
    from tasks.registry.registry import Registry

# Each try after the first means that another pull into the same folder came to its end meanwhile.
_MOST_TRIES = 8
_MILESTONE = re.compile(r"(?P<number>[1-9][0-9]{0,8})(:(?P<digest>[0-9a-f]{12,64}))?")


@dataclass(frozen=True)
class Milestone:
    """A move that a history must hold: its number, and the beginning of its digest where that was given, else empty."""

    number: int
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Milestone:
        """Read `7` or `7:3f2a91bc4d5e`, as `enginegate history` shows it.

        Raises:
            InputError: it is neither.
        """
        match = _MILESTONE.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is no move; give its number, as 7, or 7:3f2a91bc4d5e as the history shows it")
        return cls(int(match["number"]), match["digest"] or "")

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}" if self.digest else str(self.number)

    def is_in(self, moves: Sequence[SignedMove]) -> bool:
        """Whether a history holds it at its place."""
        if self.number > len(moves):
            return False
        return moves[self.number - 1].digest.removeprefix("sha256:").startswith(self.digest)


@dataclass(frozen=True)
class Offer:
    """What a channel offers, all of it checked: the move and the manifest."""

    address: ChannelAddress
    move: SignedMove
    signed: SignedManifest

    @property
    def folder(self) -> str:
        """Name of the engine's folder on the host."""
        return folder_name(self.signed.manifest.engine_id, self.signed.digest)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that the host gets."""
        return sum(artifact.size_bytes for artifact in parts_of(self.signed.manifest).values())


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    `moved` says whether `current` leads to another engine now, `fetched` whether the engine was not there before.
    `mended` are files of it that were there and damaged, or did not belong there, and `removed` the folders of old
    engines. `report` is that of its smoke inputs, where they were run.
    """

    offer: Offer
    path: Path
    moved: bool
    fetched: bool
    mended: tuple[str, ...]
    removed: tuple[str, ...]
    report: SmokeReport | None


class Service(Protocol):
    """What puts an engine into service beyond the links, by the same pull."""

    def prepare(self, offer: Offer, engine: Path) -> None:
        """Bring up the engine in folder `engine` and try it; what serves now goes on, and an error keeps it current."""

    def switch(self) -> None:
        """Lead everyone to the engine that was prepared; the links lead to it already."""


def pull_engine(
    registry: Registry,
    folder: ServingFolder,
    address: ChannelAddress,
    *,
    wait_s: float,
    check_limit_s: float | None = None,
    at_least: Milestone | None = None,
    service: Service | None = None,
    on_offer: Callable[[Offer], None] = lambda _: None,
    on_wait: Callable[[float], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> Pulled:
    """Pull the engine of a channel, and make it the current one.

    Args:
        registry: where it is.
        folder: where it goes.
        address: the channel.
        wait_s: how long to wait for another pull into the same folder, in seconds.
        at_least: a move that the channel's history must hold; a host without a memory of its own is told so where it
            is deployed.
        service: puts the engine into service, before and after the links move; an error before keeps them.
        check_limit_s: run the smoke inputs in a child process of at most so many seconds; None runs nothing.
        on_offer: told what the channel offers, before anything is written; again if that changed meanwhile.
        on_wait: told that another pull is waited for, and for how many seconds at most.
        on_progress: told how many bytes were written, and how many there are.

    Raises:
        InputError: the channel points nowhere, or the folder is another channel's.
        RefusedError: a signature, a digest, the verdict, the history or this host's runtime forbids it, or the engine
            does not do here what it did when it was compared.
        StageError: the runtime is not here, the registry cannot be reached, or the engine crashes.
    """
    for _ in range(_MOST_TRIES):
        accepted = folder.read_accepted()
        offer = find_offer(registry, address, accepted, at_least)
        on_offer(offer)
        with folder.held(wait_s, on_wait):
            if folder.read_accepted() == accepted:
                return _take(registry, folder, offer, check_limit_s, service, on_progress)
    raise StageError(f"{folder.root}: other pulls changed it {_MOST_TRIES} times meanwhile; leave it to one of them")


def find_offer(
    registry: Registry, address: ChannelAddress, accepted: Accepted | None, at_least: Milestone | None = None
) -> Offer:
    """What a channel offers; nothing is written and no file of an engine is read.

    Raises:
        InputError, RefusedError, StageError: see `pull_engine`.
    """
    require_same_channel(address, accepted)
    channel = registry.channels.read(address)
    _require_history(address, channel, accepted)
    if at_least is not None and not at_least.is_in(channel.moves):
        raise RefusedError(
            f"channel {address}: its history has {len(channel.moves)} moves, and move {at_least}, which this deployment"
            " asks for, is not among them; it was rewound, or is another registry's: find out who did that"
        )
    if not channel.moves:
        raise InputError(f"channel {address} points at no engine yet; {advise_step(registry, address)}")
    signed_move = channel.moves[-1]
    signed = _read_engine(registry, address, signed_move.move)
    faults = _find_faults(address, signed_move.move, signed)
    if faults:
        raise RefusedError(
            f"channel {address} points at {signed_move.move.engine_id}: {'; '.join(faults)}; do not serve it"
        )
    require_runtime(signed.manifest)
    return Offer(address, signed_move, signed)


def require_same_channel(address: ChannelAddress, accepted: Accepted | None) -> None:
    """Raise InputError where a folder, by what it accepted last, follows another channel than `address`."""
    if accepted is None:
        return
    if accepted.address != address:
        raise InputError(
            f"this folder follows channel {accepted.address}, and not channel {address}; pull into a folder of its own"
        )


def _require_history(address: ChannelAddress, channel: Channel, accepted: Accepted | None) -> None:
    """Refuse a channel that was put back to what it once was: an old signature is still a good one."""
    if accepted is not None and not holds_record(channel.moves, accepted.number, accepted.move):
        raise RefusedError(
            f"channel {address}: its history was rewound: move {accepted.number}, which this host accepted, is no"
            f" longer in it ({len(channel.moves)} moves); find out who did that. To accept it on purpose, remove"
            " state.json"
        )


def _read_engine(registry: Registry, address: ChannelAddress, move: Move) -> SignedManifest:
    """The manifest of the engine that a move names."""
    try:
        return registry.engines.read_signed(Cell.parse(move.engine_id))
    except InputError as error:
        raise RefusedError(f"channel {address} points at what cannot be served: {error}") from None


def _find_faults(address: ChannelAddress, move: Move, signed: SignedManifest) -> list[str]:
    manifest, faults = signed.manifest, []
    if signed.digest != move.manifest:
        faults.append(f"its manifest has digest {signed.digest}, and the channel names {move.manifest}")
    if (manifest.cell.model, manifest.cell.target) != (address.model, address.target):
        faults.append(f"it is of model {manifest.cell.model} for {manifest.cell.target}")
    faults += signed.faults
    outcome = manifest.verdict.outcome
    if outcome is not Outcome.PASS and move.override is None:
        faults.append(f"its verdict is {outcome.value}, and the move has no override")
    return faults


def require_runtime(manifest: EngineManifest) -> None:
    """Raise RefusedError where this host's runtime is not what an engine needs, StageError where it has none."""
    try:
        here = backend_of(manifest.cell.runtime).identity()
        refuse_elsewhere(manifest.backend, here, manifest.options, manifest.cell.target)
    except RefusedError as error:
        raise RefusedError(f"{manifest.engine_id}: {error}") from None


def _take(
    registry: Registry,
    folder: ServingFolder,
    offer: Offer,
    check_limit_s: float | None,
    service: Service | None,
    on_progress: Callable[[int, int], None],
) -> Pulled:
    with writing_to(folder.root):
        folder.sweep(offer.folder)  # what an engine that was refused left behind, before room is asked for
        mended = place_engine(registry, folder, offer.signed, on_progress)
    report = None if check_limit_s is None else _check(folder, offer, check_limit_s)
    if service is not None:
        service.prepare(offer, folder.root / offer.folder)
    with writing_to(folder.root):
        # Before the link: a host that is killed in between must not take an older move for the newest one.
        folder.accept(_accepted(offer))
        moved = folder.point(offer.folder)
    if service is not None:
        service.switch()
    with writing_to(folder.root):
        removed = folder.sweep(offer.folder)
    return Pulled(
        offer=offer,
        path=folder.root / offer.folder,
        moved=moved,
        fetched=mended is None,
        mended=mended or (),
        removed=removed,
        report=report,
    )


def _accepted(offer: Offer) -> Accepted:
    address, move = offer.address, offer.move
    return Accepted(
        model=address.model, target=address.target, channel=address.channel, number=move.move.number, move=move.digest
    )


def _check(folder: ServingFolder, offer: Offer, limit_s: float) -> SmokeReport:
    manifest, engine = offer.signed.manifest, folder.root / offer.folder
    batch = manifest.dims[str(next(iter(manifest.inputs.values())).shape[0])]
    request = SmokeRequest(runtime=manifest.cell.runtime, plan=engine / "plan", smoke=engine / "smoke", batch=batch)
    with folder.scratch() as scratch:
        try:
            report = run_smoke(request, scratch, limit_s)
        except StageError as error:
            raise StageError(f"{manifest.engine_id} cannot be run here, so `current` stays as it is: {error}") from None
    if not report.ok:
        raise RefusedError(
            f"{manifest.engine_id} does not do here what it did when it was compared: {'; '.join(report.faults)};"
            " `current` stays as it is. Check this host's runtime and device"
        )
    return report
