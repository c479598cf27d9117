"""Signs anew what a withdrawn key signed: the emergency after a key has leaked (docs/leaked-key.md).

Without it, everything that rests on that key is refused for ever: its engines cannot be served, and their ids are
taken. All of it is verified first, as if the withdrawn key were still trusted: signatures, histories, verdicts and the
digest of every file. What is signed anew keeps its bytes: an engine gets one more envelope beside its manifest, and a
channel one more move, to the engine that it points at already; a history of rollouts gets a step that changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.registry.channels import Channel, next_move
from tasks.registry.keys import EVERYTHING, ROLES_FILE
from tasks.registry.registry import Registry
from tasks.registry.rollouts import RolloutHistory, RolloutStep, StepKind, next_step
from tasks.registry.signing import Signing
from tasks.registry.survey import survey_registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.records import Cell
    from tasks.registry.keys import TrustedKey
    from tasks.registry.moves import Move

Item = TypeVar("Item")


@dataclass(frozen=True)
class Resignable:
    """What only withdrawn keys signed, all of it verified: engines, and channels and rollouts as they were read.

    `faults` are what is wrong with others of them, which stay as they are.
    """

    engines: tuple[Cell, ...]
    channels: tuple[Channel, ...]
    faults: tuple[str, ...]
    rollouts: tuple[RolloutHistory, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be signed anew."""
        return not (self.engines or self.channels or self.rollouts)


def find_resignable(
    registry: Registry,
    withdrawn: tuple[TrustedKey, ...],
    model: str | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> Resignable:
    """Find and verify what only withdrawn keys signed. Nothing is written.

    Args:
        registry: with the trust root as it is now, without these keys.
        withdrawn: the keys that were trusted before.
        model: only this one's; None for all.
        on_progress: told how many engines and channels were looked at, and how many there are.

    Raises:
        InputError: there is no trust root, or it holds one of these keys still.
    """
    before = as_before(registry, withdrawn)
    survey = survey_registry(registry.objects, model)
    engines, channels, rollouts, faults = [], [], [], []
    total = len(survey.engines) + len(survey.channels)
    for done, cell in enumerate(survey.engines, start=1):
        if not _is_trusted(registry.engines.read_signed, cell):
            wrong = before.engines.verify(cell)
            faults += [f"{cell.engine_id}: {fault}" for fault in wrong]
            engines += [] if wrong else [cell]
        on_progress(done, total)
    for done, address in enumerate(sorted(survey.channels, key=str), start=1 + len(survey.engines)):
        if not _is_trusted(registry.channels.read, address):
            try:
                channels.append(before.channels.read(address))
            except RefusedError as error:
                faults.append(str(error))
        on_progress(done, total)
    for place in sorted(survey.rollouts, key=str):
        if not _is_trusted(registry.rollouts.read, place):
            try:
                rollouts.append(before.rollouts.read(place))
            except RefusedError as error:
                faults.append(str(error))
    return Resignable(tuple(engines), tuple(channels), tuple(faults), tuple(rollouts))


def as_before(registry: Registry, withdrawn: tuple[TrustedKey, ...]) -> Registry:
    """The registry as it was read before the keys were withdrawn."""
    trusted = registry.signing.trusted
    if trusted is None:
        raise InputError("ENGINEGATE_TRUST: is not set, so no key was withdrawn; set it to the keys that are left")
    known = {one.key.keyid: one for one in trusted}
    for one in withdrawn:
        if one.key.keyid in known:
            raise InputError(f"{one.words} is still trusted; remove it from ENGINEGATE_TRUST first, on every host")
        if one.permission is EVERYTHING and any(each.permission is not EVERYTHING for each in trusted):
            raise InputError(
                f"{one.words}: nothing says what it was trusted for; name a folder with the key and its row in"
                f" {ROLES_FILE}"
            )
    # As it was read before, also before its name was set or a second key was trusted: what is written keeps all rules.
    signing = Signing(trusted=(*trusted, *withdrawn), asks_two=False)
    return Registry(registry.objects, signing, name=replace(registry.name, is_required=False))


def _is_trusted(read: Callable[[Item], object], item: Item) -> bool:
    try:
        read(item)
    except RefusedError:
        return False
    return True


def resign_engine(registry: Registry, withdrawn: tuple[TrustedKey, ...], cell: Cell) -> None:
    """Put an envelope of this host's key beside a manifest.

    Raises:
        RefusedError: this host's key may not sign it, or it changed meanwhile.
    """
    registry.engines.resign(as_before(registry, withdrawn).engines.read_signed(cell))


def resign_channel(
    registry: Registry, withdrawn: tuple[TrustedKey, ...], shown: Channel, *, reason: str, who: str
) -> Move | None:
    """Add a move of this host's key to the engine that a channel points at; return it.

    Raises:
        RefusedError: somebody moved the channel since it was shown, or this host's key may not.
    """
    before = as_before(registry, withdrawn)

    def decide(channel: Channel) -> Move:
        if [one.digest for one in channel.moves] != [one.digest for one in shown.moves] or channel.current is None:
            raise RefusedError(
                f"channel {shown.address} was moved meanwhile; look at `enginegate history` and try again"
            )
        current = channel.current
        return next_move(
            channel,
            kind="resign",
            engine_id=current.engine_id,
            manifest=current.manifest,
            reason=reason,
            override=current.override,
            who=who,
        )

    return registry.channels.move(shown.address, decide, read=before.channels.read)


def resign_rollouts(
    registry: Registry, withdrawn: tuple[TrustedKey, ...], shown: RolloutHistory, *, reason: str, who: str
) -> RolloutStep:
    """Add a step of this host's key that leaves a history of rollouts as it is; return it.

    Raises:
        RefusedError: somebody made a step since it was shown, or this host's key may not.
    """
    before = as_before(registry, withdrawn)

    def decide(history: RolloutHistory) -> RolloutStep:
        if [one.digest for one in history.steps] != [one.digest for one in shown.steps] or history.current is None:
            raise RefusedError(f"rollout {shown.address} went on meanwhile; look at `enginegate rollout history`")
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rollout = history.current.rollout
        return next_step(history, kind=StepKind.RESIGN, rollout=rollout, who=who, when=when, reason=reason)

    return registry.rollouts.write(shown.address, decide, read=before.rollouts.read)
