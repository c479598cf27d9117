"""How an engine is chosen for a channel: named or the best, registered or kept out, and fit to be served."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError
from tasks.records import LONGEST_REASON, Cell, EngineManifest
from tasks.registry.channels import Channel, next_move
from tasks.registry.engines import SignedManifest
from tasks.registry.moves import ChannelAddress, ChannelName, Move
from tasks.registry.signing import Signature
from tasks.registry.steps import RolloutAddress
from tasks.registry.survey import in_threads
from tasks.release.ranking import choose_passing
from tasks.store.digests import digest_json
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.registry.registry import Registry
    from tasks.release.rejected import RejectedEngines

AUTOMATIC = "enginegate convert"
_NAMED = 3


def parse_engine(engine_id: str, address: ChannelAddress) -> Cell:
    """Read an engine id of a channel's model and target.

    Raises:
        InputError: it is none, or that of an engine of another model or target.
    """
    cell = Cell.parse(engine_id)
    if (cell.model, cell.target) != (address.model, address.target):
        raise InputError(
            f"{engine_id}: is an engine of {cell.model} for {cell.target}, and the channel is one of {address.model}"
            f" for {address.target}; name an engine of those, or another channel"
        )
    return cell


def points_at(move: Move, engine: SignedManifest) -> bool:
    """Whether a move went to this very engine: its id, and the digest of its manifest."""
    return (move.engine_id, move.manifest) == (engine.manifest.engine_id, engine.digest)


def engine_of(registry: Registry, move: Move) -> SignedManifest:
    """The engine that a move names.

    Raises:
        RefusedError: it is not there or of another model or target, or its manifest is not the one that the move
            names, is damaged or is not signed by a trusted key where a trust root is set.
    """
    place = f"move {move.number} of {move.address}"
    try:
        cell = parse_engine(move.engine_id, move.address)
    except InputError as error:
        raise RefusedError(f"{place}: {error}") from None
    if not registry.engines.has(cell):
        raise RefusedError(
            f"{place} names {move.engine_id}, which is not registered any more; restore it from the bucket's versions"
            " or a backup, or promote another engine"
        )
    found = registry.engines.read_signed(cell)
    if found.digest != move.manifest:
        raise RefusedError(
            f"{place} names {move.engine_id} by manifest {move.manifest}, but {found.digest} is registered; do not use"
            " it: promote another engine"
        )
    return found


def read_current(registry: Registry, channel: Channel) -> tuple[SignedManifest | None, str | None]:
    """What a channel points at, or why that cannot be read: a channel must be able to leave a damaged engine."""
    if channel.current is None:
        return None, None
    try:
        return engine_of(registry, channel.current), None
    except RefusedError as error:
        return None, str(error)


def best_of_newest(registry: Registry, address: ChannelAddress) -> SignedManifest:
    """Of the version that was converted last, of those with an engine that passed, the best such engine.

    Which is the last does not rest on what its signer says alone: see `SignedManifest.dated`; and `ranking` for which
    is the best. An upgraded engine is younger than the one that it was made of, and of no newer model: it counts where
    there is no other.

    Raises:
        InputError: there is none.
        RefusedError: a manifest is damaged, or not signed by a trusted key where a trust root is set.
    """
    cells = [cell for cell in registry.engines.list_cells(address.model) if cell.target == address.target]
    found = in_threads(registry.engines.read_signed, cells)
    passed = [one for one in found if one.manifest.verdict.outcome is Outcome.PASS and not one.faults]
    if not passed:
        raise InputError(
            f"model {address.model} for {address.target}: none of its {len(cells)} registered engines passed; convert"
            " it first, or name an engine"
        )
    converted = [one for one in passed if one.manifest.upgraded_from is None] or passed
    version = max(converted, key=lambda one: one.dated).manifest.cell.version
    best = choose_passing(one.manifest for one in passed if one.manifest.cell.version == version)
    assert best is not None  # noqa: S101 - `version` is one of those that passed
    return next(one for one in passed if one.manifest is best.manifest)


def point_candidate(registry: Registry, model: str, version: str, target: str, who: str | None) -> Move | None:
    """Move `candidate` to the best registered engine of a version for a target; return the move, if any was made.

    The move's reason says why it is the best; see `ranking`.

    An engine that was the candidate before is left alone: a conversion that is run again moves nothing, and what a
    person took back stays so.

    Raises:
        RefusedError: the channel or a manifest is damaged or not signed by a trusted key, or a freeze stands, so that
            it has to be promoted later.
    """
    cells = [cell for cell in registry.engines.list_cells(model) if (cell.version, cell.target) == (version, target)]
    signed = {cell: registry.engines.read_signed(cell) for cell in cells}
    choice = choose_passing(one.manifest for one in signed.values() if not one.faults)
    if choice is None:
        return None
    best = choice.manifest

    def decide(channel: Channel) -> Move | None:
        if any(one.move.engine_id == best.engine_id for one in channel.moves):
            return None
        registry.rollouts.read(RolloutAddress(model, target)).require_thawed(datetime.now(timezone.utc))
        return next_move(
            channel,
            kind="promote",
            engine_id=best.engine_id,
            manifest=signed[best.cell].digest,
            reason=f"version {version}: {choice.reason}"[:LONGEST_REASON],
            override=None,
            who=who or AUTOMATIC,
        )

    return registry.channels.move(ChannelAddress(model, target, ChannelName.CANDIDATE), decide)


def find_engine(registry: Registry, kept: RejectedEngines, cell: Cell) -> tuple[SignedManifest, bool]:
    """A registered engine, or one that did not pass and is kept on this host; and whether it is registered.

    Of one that is not, the digest is that of its manifest as it stands, without an override.

    Raises:
        InputError: it is neither.
        RefusedError: it could not be served; see `require_servable`.
    """
    if registry.engines.has(cell):
        proposed = registry.engines.read_signed(cell)
        require_servable(registry, proposed)
        return proposed, True
    rejected = kept.find(cell)
    if rejected is None or rejected.verdict.outcome is Outcome.PASS:
        raise InputError(
            f"{cell.engine_id}: is not registered, and this host converted no such engine that did not pass;"
            " `enginegate engines` lists what is registered. To override a verdict, run this on the host that converted"
            " the engine, with its ENGINEGATE_STATE and ENGINEGATE_STORE"
        )
    _refuse_faulty(rejected, kept.faults(rejected), "convert the model again")
    return SignedManifest(rejected, digest_json(rejected.model_dump(mode="json")), Signature((), None)), False


def require_servable(registry: Registry, engine: SignedManifest) -> None:
    """Check that an engine could be served, by its manifest and the sizes of its files.

    Raises:
        RefusedError: its manifest contradicts itself, or a file is missing or has another size.
    """
    faults = engine.faults
    faults += [f"{file} is missing or has another size" for file in registry.engines.missing_files(engine.manifest)]
    _refuse_faulty(engine.manifest, faults, "convert the model again, which mends files, or promote another engine")


def _refuse_faulty(manifest: EngineManifest, faults: list[str], remedy: str) -> None:
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    if faults:
        raise RefusedError(f"{manifest.engine_id} cannot be served: {'; '.join(faults[:_NAMED])}{more}; {remedy}")
