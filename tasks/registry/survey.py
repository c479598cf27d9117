"""Reads a whole registry: what is registered, every channel and every history of rollouts, several at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import InputError, RefusedError
from tasks.process.child import ignore_progress
from tasks.registry.layout import CHANNELS, ENGINES, PROBE, cell_at, is_resigned, manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.steps import RolloutAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.objects.interface import Entry, ObjectStore
    from tasks.records import Cell
    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory

Item = TypeVar("Item")
Result = TypeVar("Result")

# A manifest takes some 5 ms to check and, in S3, 20 ms or more to come.
READERS = 8
_TOLD = 5


@dataclass(frozen=True)
class Survey:
    """What is there: engines, with their manifests as they were listed, channels, and foreign keys.

    Where a model has one channel for a target, all four are listed.
    """

    engines: dict[Cell, Entry]
    channels: frozenset[ChannelAddress]
    strangers: tuple[str, ...]

    @property
    def rollouts(self) -> frozenset[RolloutAddress]:
        """Where rollouts may be: those of every model and target. What hosts saw of them, many files, is not listed."""
        places = {(cell.model, cell.target) for cell in self.engines}
        places |= {(channel.model, channel.target) for channel in self.channels}
        return frozenset(RolloutAddress(model, target) for model, target in places)

    @property
    def faults(self) -> list[str]:
        """The foreign keys in a sentence, the first few by name; empty where there are none."""
        if not self.strangers:
            return []
        listed = ", ".join(self.strangers[:_TOLD]) + (", …" if len(self.strangers) > _TOLD else "")
        count = "1 object" if len(self.strangers) == 1 else f"{len(self.strangers)} objects"
        return [f"{count} below {ENGINES} and {CHANNELS} that enginegate did not write: {listed}; move them elsewhere"]


def survey_registry(objects: ObjectStore, model: str | None = None) -> Survey:
    """List what a registry holds, of one model or of all; nothing is read yet."""
    below = "" if model is None else f"{model}/"
    engines, strangers = list_engines(objects, below)
    channels: set[ChannelAddress] = set()
    for entry in objects.list(f"{CHANNELS}{below}"):
        if entry.key == PROBE:
            continue
        address = ChannelAddress.from_key(entry.key) or ChannelAddress.of_part(entry.key)
        if address is None:
            strangers.append(entry.key)
        else:
            channels.update(ChannelAddress.all_of(address.model, address.target))
    return Survey(engines, frozenset(channels), tuple(strangers))


def list_engines(objects: ObjectStore, below: str = "") -> tuple[dict[Cell, Entry], list[str]]:
    """The engines by id, each with its manifest as it is listed, and the keys among them that are no manifest's."""
    found, strangers = {}, []
    for entry in objects.list(f"{ENGINES}{below}"):
        cell = cell_at(entry.key)
        if cell is None and is_resigned(entry.key):
            continue
        if cell is None:
            strangers.append(entry.key)
        else:
            found[cell] = entry
    return dict(sorted(found.items(), key=lambda item: item[0].engine_id)), strangers


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> list[Result]:
    """What `work` returns for each item, in order, by a few threads; the first error ends it.

    `on_progress` is told, in this thread, how many are done and how many there are.
    """
    items, results = list(items), []
    with ThreadPoolExecutor(READERS) as pool:
        for result in pool.map(work, items):
            results.append(result)
            on_progress(len(results), len(items))
    return results


def read_manifests(
    registry: Registry, cells: Iterable[Cell], on_progress: Callable[[int, int], None] = ignore_progress
) -> tuple[dict[Cell, SignedManifest], list[str]]:
    """The manifests that can be read and verified, and what is wrong with the others.

    One that was removed since it was listed is in neither.
    """

    def read(cell: Cell) -> SignedManifest | str | None:
        try:
            return registry.engines.read_signed(cell)
        except RefusedError as error:
            return str(error)
        except InputError:
            if registry.objects.size(manifest_key(cell)) is None:
                return None
            raise

    cells = list(cells)
    results = dict(zip(cells, in_threads(read, cells, on_progress), strict=True))
    faults = [found for found in results.values() if isinstance(found, str)]
    return {cell: found for cell, found in results.items() if found and not isinstance(found, str)}, faults


def read_channels(registry: Registry, addresses: Iterable[ChannelAddress]) -> tuple[list[Channel], list[str]]:
    """Channels, empty ones too, as far as they verify, and what is wrong with the others.

    They come by model and target, and of these in the order of the steps.
    """

    def read(address: ChannelAddress) -> Channel | str:
        try:
            return registry.channels.read(address)
        except RefusedError as error:
            return str(error)

    steps = list(ChannelName)
    results = in_threads(read, sorted(addresses, key=lambda one: (one.model, one.target, steps.index(one.channel))))
    channels = [found for found in results if not isinstance(found, str)]
    return channels, [found for found in results if isinstance(found, str)]


def read_rollouts(registry: Registry, addresses: Iterable[RolloutAddress]) -> tuple[list[RolloutHistory], list[str]]:
    """Histories of rollouts, empty ones too, as far as they verify, and what is wrong with the others."""

    def read(address: RolloutAddress) -> RolloutHistory | str:
        try:
            return registry.rollouts.read(address)
        except RefusedError as error:
            return str(error)

    results = in_threads(read, sorted(addresses, key=str))
    histories = [found for found in results if not isinstance(found, str)]
    return histories, [found for found in results if isinstance(found, str)]
