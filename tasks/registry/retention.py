"""Which engines and files of a registry a channel, its history or their age holds, and which nothing does.

Whatever cannot be read may hold anything: then nothing is loose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.records import Cell, EngineManifest
from tasks.registry.evidence import artifacts_of, time_of
from tasks.registry.layout import BLOBS, blob_key, manifest_key
from tasks.registry.moves import ChannelAddress
from tasks.registry.survey import Survey, read_channels, read_manifests, read_rollouts, survey_registry
from tasks.store.digests import artifact_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tasks.objects.interface import Entry, ObjectStore
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory

# Servers of one store may differ by so much.
CLOCK_TOLERANCE = timedelta(minutes=5)
_BLOB_KEY = re.compile(rf"{BLOBS}sha256/[0-9a-f]{{2}}/[0-9a-f]{{62}}")


class Hold(str, Enum):
    """Why something stays; of several reasons the first."""

    CHANNEL = "channel"
    HISTORY = "history"
    AGE = "age"
    ENGINE = "engine"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Held:
    """An engine (its id) or a file (its key) that stays, and why: which channels, which day, or which engine."""

    name: str
    hold: Hold
    why: str


@dataclass(frozen=True)
class LooseEngine:
    """An engine that nothing holds: its manifest as it was listed, and when it was registered (UTC)."""

    cell: Cell
    entry: Entry
    registered: datetime


@dataclass(frozen=True)
class RemovalPlan:
    """What may go of all that was written before a moment (UTC), and what stays.

    `incomplete` says of engines that stay and lack files what they lack: they serve nobody until they are mended.
    """

    before: datetime
    engines: tuple[LooseEngine, ...]
    files: tuple[Entry, ...]
    kept: tuple[Held, ...]
    kept_files: tuple[Held, ...]
    incomplete: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that may go."""
        return sum(entry.size_bytes for entry in self.files)

    def count(self, hold: Hold) -> int:
        """How many engines stay for this reason."""
        return sum(one.hold is hold for one in self.kept)


def moment_ago(objects: ObjectStore, age: timedelta, *, idle: bool = True) -> datetime:
    """When it was `age` ago, by the clock that dates a registry's objects.

    A clock that runs ahead makes everything old. A folder is dated by this host's clock, and cannot tell that from
    having been `idle` for so long; somebody who knows must say so.

    Raises:
        RefusedError: an object is dated after that clock's present, so that no age can be told; or all of them are
            older than `age`, though the registry is not said to be idle.
    """
    now = objects.now()
    newest = max(objects.list(""), key=lambda entry: entry.modified, default=None)
    if newest is not None and newest.modified - now > CLOCK_TOLERANCE:
        raise RefusedError(
            f"{objects.address}: {newest.key} was written at {newest.modified.isoformat(timespec='seconds')}, and there"
            f" it is {now.isoformat(timespec='seconds')} only: its clock was set back, so nothing is removed; set it"
            " right and try again"
        )
    if newest is not None and newest.modified < now - age and not idle:
        raise RefusedError(
            f"{objects.address}: by its clock it is {now.isoformat(timespec='seconds')}, and nothing was written there"
            f" for {(now - newest.modified).days} days, so all of it would count as old: see that the clock is right."
            " If it is, and nobody worked with it for so long, add --idle"
        )
    return now - age


def plan_removal(
    registry: Registry, before: datetime, on_progress: Callable[[int, int], None] = ignore_progress
) -> RemovalPlan:
    """What may go of all that was written before a moment; nothing is changed.

    An engine stays that a move of a channel or a step of a rollout names, or that was registered at `before` (UTC)
    or later: the later of its `created_at` and the time at which its manifest was written counts. A file stays that
    such an engine names, that was written at `before` or later, or whose key is none of a registry's. `on_progress` is
    told how many of the manifests are read.

    Raises:
        RefusedError: a channel or a manifest cannot be read or verified, a channel points at an engine that is not
            there, or keys among channels and manifests are foreign. All of it is named.
    """
    survey = survey_registry(registry.objects)
    holds, channel_faults = _read_holds(registry, survey)
    signed, manifest_faults = read_manifests(registry, survey.engines, on_progress)
    manifest_faults += [fault for cell, one in signed.items() for fault in _faults_of(cell, one)]
    refuse_removal([*survey.faults, *channel_faults, *manifest_faults, *_lost_engines(registry, holds)])
    registered = {
        cell: max(time_of(one.manifest.created_at) or modified, modified)
        for cell, one in signed.items()
        for modified in (survey.engines[cell].modified,)
    }
    held = {
        cell: holds.get(cell.engine_id) or _held_by_age(cell.engine_id, moment)
        for cell, moment in registered.items()
        if cell.engine_id in holds or moment >= before
    }
    staying = [signed[cell].manifest for cell in held]
    # Listed after the manifests: of an engine that is registered all files are there.
    files = {entry.key: entry for entry in registry.objects.list(BLOBS)}
    kept_files = _held_files(files.values(), files_of(staying), before)
    held_keys = {one.name for one in kept_files}
    return RemovalPlan(
        before,
        tuple(LooseEngine(cell, survey.engines[cell], registered[cell]) for cell in signed if cell not in held),
        tuple(entry for key, entry in files.items() if key not in held_keys),
        tuple(held.values()),
        tuple(kept_files),
        tuple(_find_incomplete(registry, staying, files)),
    )


def refuse_removal(faults: list[str]) -> None:
    """Stop if there are faults.

    Raises:
        RefusedError: which says that nothing is removed from here on, and lists them.
    """
    if faults:
        count = "1 thing is not as it" if len(faults) == 1 else f"{len(faults)} things are not as they"
        listed = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(faults, start=1))
        raise RefusedError(f"{count} should be in the registry, so nothing is removed; mend that first:\n{listed}")


def files_of(manifests: Iterable[EngineManifest]) -> dict[str, str]:
    """The keys of the files that engines need, each with the id of one of them."""
    return {
        blob_key(file.digest): manifest.engine_id
        for manifest in manifests
        for artifact in artifacts_of(manifest).values()
        for file in artifact.files
    }


def _read_holds(registry: Registry, survey: Survey) -> tuple[dict[str, Held], list[str]]:
    """The engines that moves of channels and steps of rollouts name, and what is wrong with channels and rollouts.

    Channels of every engine's model and target are asked for by name too: a listing passes links over.
    """
    of_engines = (ChannelAddress.all_of(cell.model, cell.target) for cell in survey.engines)
    channels, faults = read_channels(registry, survey.channels.union(*of_engines))
    now: dict[str, list[str]] = {}
    past: dict[str, list[str]] = {}
    for channel in channels:
        for one in channel.moves:
            names = now if one is channel.moves[-1] else past
            names.setdefault(one.move.engine_id, []).append(str(channel.address))
    rollouts, rollout_faults = read_rollouts(registry, survey.rollouts)
    faults += rollout_faults
    for history in rollouts:
        for engine in engines_rolled_out(history):
            names = past if history.open_rollout is None or engine not in history.open_rollout.engines else now
            names.setdefault(engine, []).append(f"rollout {history.address}")
    held = {engine: Held(engine, Hold.HISTORY, _joined(names)) for engine, names in past.items()}
    return held | {engine: Held(engine, Hold.CHANNEL, _joined(names)) for engine, names in now.items()}, faults


def engines_rolled_out(history: RolloutHistory) -> set[str]:
    """The ids of the engines that any rollout of a history names."""
    states = [one.step.rollout for one in history.steps if one.step.rollout is not None]
    return {engine for state in states for engine in state.engines}


def _joined(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _faults_of(cell: Cell, signed: SignedManifest) -> list[str]:
    """Why it cannot be told which files are this engine's, or how old it is."""
    faults = [
        f"{cell.engine_id}: {role}: the list of files does not match {artifact.digest}; convert the model again"
        for role, artifact in artifacts_of(signed.manifest).items()
        if artifact_digest(artifact.files) != artifact.digest
    ]
    if time_of(signed.manifest.created_at) is None:
        faults.append(
            f"{cell.engine_id}: created_at: {signed.manifest.created_at!r} is no date and time, so how old it is cannot"
            " be told; convert the model again"
        )
    return faults


def _held_by_age(engine_id: str, registered: datetime) -> Held:
    return Held(engine_id, Hold.AGE, f"registered {registered.isoformat(timespec='seconds')}")


def _lost_engines(registry: Registry, holds: Mapping[str, Held]) -> list[str]:
    """Engines that a channel points at and that are not there: which files they need is not known."""
    return [
        f"{one.name} is not registered, and {one.why} points at it; bring its manifest back from the bucket's versions"
        " or a backup, or promote another engine"
        for one in holds.values()
        if one.hold is Hold.CHANNEL and not _is_registered(registry, one.name)
    ]


def _is_registered(registry: Registry, engine_id: str) -> bool:
    try:
        cell = Cell.parse(engine_id)
    except InputError:
        return False
    return registry.engines.has(cell)


def _held_files(entries: Iterable[Entry], named: Mapping[str, str], before: datetime) -> list[Held]:
    held = []
    for entry in entries:
        if not _BLOB_KEY.fullmatch(entry.key):
            held.append(Held(entry.key, Hold.FOREIGN, "enginegate did not write it"))
        elif entry.key in named:
            held.append(Held(entry.key, Hold.ENGINE, named[entry.key]))
        elif entry.modified >= before:
            held.append(Held(entry.key, Hold.AGE, f"written {entry.modified.isoformat(timespec='seconds')}"))
    return held


def _find_incomplete(
    registry: Registry, manifests: Iterable[EngineManifest], entries: Mapping[str, Entry]
) -> list[str]:
    """Engines that lack files, looked at twice: another gc may have removed the engine meanwhile."""
    found = []
    for manifest in manifests:
        if _is_whole(manifest, entries) or registry.objects.size(manifest_key(manifest.cell)) is None:
            continue
        missing = registry.engines.missing_files(manifest)
        if missing:
            found.append(f"{manifest.engine_id} lacks {', '.join(missing)}; convert it again, which mends it")
    return found


def _is_whole(manifest: EngineManifest, entries: Mapping[str, Entry]) -> bool:
    return all(
        (entry := entries.get(blob_key(file.digest))) is not None and entry.size_bytes == file.size_bytes
        for artifact in artifacts_of(manifest).values()
        for file in artifact.files
    )
