"""Brings a rollout's canary up on a serving host, beside the engine of production that clients are led to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, RefusedError, StageError
from tasks.objects.files import make_folders, writing_to
from tasks.records import Cell
from tasks.release.engine_files import place_engine
from tasks.release.pull import require_runtime
from tasks.release.serving_folder import ServingFolder, folder_name
from tasks.serving.batching import call_limit_ms
from tasks.serving.engine_layout import PlacedEngine
from tasks.serving.route import canary_beside, inputs_to_keep
from tasks.serving.triton_api import TritonError, UnreachableError
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutState
    from tasks.release.triton_switch import TritonSwitch
    from tasks.serving.route import Canary, Route

CANARY_FOLDER = "canary"
NO_MOVE = 0
"""What stands for a move's number in the name of a canary's models: moves count from 1."""


class CanaryError(RefusedError):
    """The canary cannot answer on this host, and trying again changes nothing: evidence against it."""


@dataclass(frozen=True)
class CanaryBeside:
    """A canary that is loaded and tried, how long it may take for a call, and which inputs may be kept."""

    canary: Canary
    timeout_ms: float
    keep_inputs: tuple[str, ...]


def bring_up_canary(registry: Registry, switch: TritonSwitch, state: RolloutState, production: Route) -> CanaryBeside:
    """Fetch the canary, load it beside production, and try its smoke samples through the server.

    Raises:
        CanaryError: it is not what the rollout says or not signed by a trusted key, clients would be answered
            differently, or it does not load or compute here what it did when it was compared.
        StageError: registry, disk or server fail; what was begun is completed by the next try.
    """
    try:
        signed = _read_canary(registry, state)
        _require_runtime(signed)
        placed = _place(registry, switch, signed)
    except CanaryError:
        raise
    except RefusedError as error:
        raise CanaryError(str(error)) from None
    try:
        layout = switch.bring_up(placed)
        canary = canary_beside(production, layout.route)
    except (RefusedError, TritonError) as error:
        switch.take_back(placed)
        raise CanaryError(str(error)) from None
    except UnreachableError:
        if switch.api is not None and switch.api.answers():  # a load that hangs: the server itself is there
            switch.take_back(placed)
            raise CanaryError(f"{state.canary.engine_id} did not load in the time that loading may take") from None
        raise
    keep = inputs_to_keep(production) & inputs_to_keep(layout.route)
    return CanaryBeside(canary, call_limit_ms(signed.manifest), tuple(sorted(keep)))


def _read_canary(registry: Registry, state: RolloutState) -> SignedManifest:
    engine_id = state.canary.engine_id
    try:
        signed = registry.engines.read_signed(Cell.parse(engine_id))
    except InputError as error:
        raise CanaryError(f"{engine_id} cannot be served: {error}") from None
    faults = list(signed.faults)
    if signed.digest != state.canary.manifest:
        faults.append(f"its manifest has digest {signed.digest}, and the rollout names {state.canary.manifest}")
    if signed.manifest.verdict.outcome is not Outcome.PASS and signed.manifest.override is None:
        faults.append(f"its verdict is {signed.manifest.verdict.outcome.value}, and it has no override")
    if faults:
        raise CanaryError(f"{engine_id}: {'; '.join(faults)}; do not serve it")
    return signed


def _require_runtime(signed: SignedManifest) -> None:
    try:
        require_runtime(signed.manifest)
    except StageError as error:  # none at all: waiting installs none
        raise CanaryError(f"{signed.manifest.engine_id}: {error}") from None


def _place(registry: Registry, switch: TritonSwitch, signed: SignedManifest) -> PlacedEngine:
    folder = ServingFolder(switch.repository.state / CANARY_FOLDER)
    name = folder_name(signed.manifest.engine_id, signed.digest)
    with writing_to(folder.root):
        make_folders(folder.root)
        folder.sweep(name)
        place_engine(registry, folder, signed)
    return PlacedEngine(signed.manifest, signed.digest, NO_MOVE, folder.root / name)


def remove_canary(switch: TritonSwitch) -> None:
    """Remove the canary's files, when nothing leads to its models any more."""
    folder = ServingFolder(switch.repository.state / CANARY_FOLDER)
    with writing_to(folder.root):
        if folder.root.is_dir():
            folder.sweep()
