"""Points the channel `candidate` at the fastest engine of a conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.registry.channels import next_move
from tasks.registry.moves import ChannelAddress, ChannelName
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move
    from tasks.registry.registry import Registry

AUTOMATIC = "enginegate convert"


def fastest_passing(manifests: Iterable[EngineManifest]) -> EngineManifest | None:
    """The engine with the smallest median latency of those that passed, the smaller one of equals."""
    passing = [manifest for manifest in manifests if manifest.verdict.outcome is Outcome.PASS]
    return min(passing, key=lambda one: (one.benchmark.headline.p50_ms, one.plan.size_bytes), default=None)


def point_candidate(registry: Registry, model: str, version: str, target: str, who: str | None) -> Move | None:
    """Move `candidate` to the fastest registered engine of a version for a target; return the move, if any was made.

    An engine that was the candidate before is left alone: a conversion that is run again moves nothing, and what a
    person took back stays so.

    Raises:
        RefusedError: the channel or a manifest is damaged or not signed by a trusted key.
    """
    cells = [cell for cell in registry.engines.list_cells(model) if (cell.version, cell.target) == (version, target)]
    signed = {cell: registry.engines.read_signed(cell) for cell in cells}
    best = fastest_passing(one.manifest for one in signed.values())
    if best is None:
        return None

    def decide(channel: Channel) -> Move | None:
        if any(one.move.engine_id == best.engine_id for one in channel.moves):
            return None
        return next_move(
            channel,
            kind="promote",
            engine_id=best.engine_id,
            manifest=signed[best.cell].digest,
            reason=f"the fastest engine of version {version} that passed",
            override=None,
            who=who or AUTOMATIC,
        )

    return registry.channels.move(ChannelAddress(model, target, ChannelName.CANDIDATE), decide)
