"""Removes from a registry what nothing holds, while others go on publishing and promoting.

Nothing is locked. Manifests go first and files last, so that whoever is killed on the way leaves whole engines, and
files without one. What others did meanwhile is looked at before each step, and once more at the end:

- An engine that was promoted stays. Where that came just before its manifest went, the manifest is put back.
- An engine that was registered keeps its files. Where one went just before its manifest came, it is told of.

A window remains that only a lock would close: a publisher finds an old file there, the file goes, and the manifest
comes after the last look; or a promotion looks at an engine right before it moves, its manifest goes, and the channel
moves after the last look. Nobody takes such an engine for whole: files and manifest are looked for wherever it is used,
the next gc says what is missing, and converting again mends the first. In a bucket with versions what went is only
hidden for some weeks (`DeletedDays` in infra/aws/registry.yaml), and can be brought back as it was, which mends both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.registry.layout import BLOBS, manifest_key, resigned_keys
from tasks.registry.moves import ChannelAddress
from tasks.registry.retention import LooseEngine, RemovalPlan, engines_rolled_out, files_of, refuse_removal
from tasks.registry.steps import RolloutAddress
from tasks.registry.survey import in_threads, list_engines, read_channels, read_manifests, read_rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.objects.interface import Entry
    from tasks.records import Cell, EngineManifest
    from tasks.registry.registry import Registry

# Files between two looks at what was registered meanwhile: a second or two in S3.
BATCH = 256


@dataclass(frozen=True)
class Removed:
    """What went: engines and files. `spared` are engines of the plan that were promoted or written anew meanwhile."""

    engines: tuple[Cell, ...]
    files: tuple[Entry, ...]
    spared: tuple[Cell, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that went."""
        return sum(entry.size_bytes for entry in self.files)


def remove_loose(
    registry: Registry, plan: RemovalPlan, on_progress: Callable[[int, int], None] = ignore_progress
) -> Removed:
    """Remove what a plan says, as far as nobody has come to need it since; another removal at once does no harm.

    `on_progress` is told how many of the engines and files are done, and how many there are.

    Raises:
        RefusedError: a channel or a manifest cannot be read any more, and the rest stays; or an engine was registered
            or promoted at the very moment and has lost something: it is named, with the remedy.
    """
    total = len(plan.engines) + len(plan.files)
    removed = _remove_engines(registry, plan.engines, lambda done: on_progress(done, total))
    returned = _return_promoted(registry, removed)
    known: dict[Entry, EngineManifest] = {}
    gone: list[Entry] = []
    files = _still_there(registry, plan.files)
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        gone += _remove_files(registry, batch, known)
        on_progress(total - len(files) + start + len(batch), total)
    returned |= _return_promoted(registry, removed)
    _tell_victims(registry, gone, known)
    for cell in removed.keys() - returned:
        for entry in registry.objects.list(resigned_keys(cell)):
            registry.objects.delete(entry.key)
    spared = [engine.cell for engine in plan.engines if engine.cell in returned or engine.cell not in removed]
    return Removed(
        tuple(cell for cell in removed if cell not in returned),
        tuple(gone),
        tuple(cell for cell in spared if registry.objects.size(manifest_key(cell)) is not None),
    )


def _remove_engines(
    registry: Registry, engines: Iterable[LooseEngine], on_done: Callable[[int], None]
) -> dict[Cell, bytes]:
    """Remove manifests; return those that went."""
    removed = {}
    for done, engine in enumerate(engines, start=1):
        content = _remove_manifest(registry, engine)
        if content is not None:
            removed[engine.cell] = content
        on_done(done)
    return removed


def _remove_manifest(registry: Registry, engine: LooseEngine) -> bytes | None:
    """Remove a manifest and return it; None where the engine is needed by now, or not the one that was looked at."""
    cell, objects = engine.cell, registry.objects
    if cell.engine_id in _promoted(registry, [cell]):
        return None
    if engine.entry not in objects.list(engine.entry.key):
        return None
    found = objects.read(engine.entry.key)
    if found is None:
        return None
    objects.delete(engine.entry.key)
    return found.content


def _promoted(registry: Registry, cells: Iterable[Cell]) -> set[str]:
    """The engines that channels and rollouts of these cells' models and targets name."""
    cells = list(cells)
    addresses = {address for cell in cells for address in ChannelAddress.all_of(cell.model, cell.target)}
    channels, faults = read_channels(registry, addresses)
    rollouts, more = read_rollouts(registry, {RolloutAddress(cell.model, cell.target) for cell in cells})
    refuse_removal(faults + more)
    moved = {one.move.engine_id for channel in channels for one in channel.moves}
    return moved.union(*map(engines_rolled_out, rollouts))


def _return_promoted(registry: Registry, removed: dict[Cell, bytes]) -> set[Cell]:
    """Put back the manifests of engines that were promoted while they were removed; return these engines."""
    promoted = _promoted(registry, removed)
    returned = {cell for cell in removed if cell.engine_id in promoted}
    for cell in returned:
        try:
            registry.objects.create(manifest_key(cell), removed[cell])
        except InputError as error:  # the role of upkeep may only delete
            raise RefusedError(
                f"{cell.engine_id} was promoted while it was removed, and its manifest cannot be put back ({error});"
                f" bring {manifest_key(cell)} back from the bucket's versions. The rest is left as it is"
            ) from None
    return returned


def _still_there(registry: Registry, files: Iterable[Entry]) -> list[Entry]:
    """Those that nobody removed or wrote anew since they were listed."""
    now = set(registry.objects.list(BLOBS))
    return [entry for entry in files if entry in now]


def _remove_files(registry: Registry, batch: Iterable[Entry], known: dict[Entry, EngineManifest]) -> list[Entry]:
    """Remove those that no engine needs by now."""
    named = _named_now(registry, known)
    loose = [entry for entry in batch if entry.key not in named]
    in_threads(lambda entry: registry.objects.delete(entry.key), loose)
    return loose


def _named_now(registry: Registry, known: dict[Entry, EngineManifest]) -> dict[str, str]:
    """The keys of the files that registered engines need, each with an engine's id; `known` are manifests read so far.

    Raises:
        RefusedError: one cannot be read.
    """
    engines, strangers = list_engines(registry.objects)
    signed, faults = read_manifests(registry, [cell for cell, entry in engines.items() if entry not in known])
    refuse_removal(faults + [f"{key} is no manifest; move it elsewhere" for key in strangers])
    known |= {engines[cell]: one.manifest for cell, one in signed.items()}
    return files_of(known[entry] for entry in engines.values() if entry in known)


def _tell_victims(registry: Registry, gone: Iterable[Entry], known: dict[Entry, EngineManifest]) -> None:
    """Name the engines that were registered while a file of theirs was removed."""
    named = _named_now(registry, known)
    lost = [entry.key for entry in gone if entry.key in named]
    victims = sorted({named[key] for key in lost if registry.objects.size(key) is None})
    if victims:
        raise RefusedError(
            f"{', '.join(victims)}: registered while files were removed, some of which are needed; convert again, which"
            " gives them anew. All else that was to go is gone"
        )
