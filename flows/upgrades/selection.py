"""Chooses the engines to upgrade: those that a channel points at, for a target that this host can build for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.backends import CPU
from tasks.backends.gpu import find_gpu
from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.registry.moves import ChannelAddress, is_model_name
from tasks.registry.survey import in_threads, survey_registry
from tasks.release.next_step import advise_step
from tasks.release.select import engine_of, require_servable
from tasks.specs import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.session import Session
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelName
    from tasks.registry.registry import Registry


@dataclass(frozen=True)
class Chosen:
    """What a channel points at: the engine, or why that cannot be believed or is not there."""

    address: ChannelAddress
    engine: SignedManifest | None
    fault: EnginegateError | None = None


def target_to_build(wanted: str | None) -> str:
    """The target: the one that is wanted, or else this host's GPU, or the CPU where there is none.

    Raises:
        InputError: it is none, or this host cannot build for it.
    """
    if wanted is not None and not TARGET.fullmatch(wanted):
        raise InputError(f"--target {wanted}: is no target; it reads like cpu, h200 or a100-mig-1g.5gb")
    try:
        here = find_gpu().target
    except StageError:
        here = None
    if wanted in {None, CPU, here}:
        return wanted or here or CPU
    found = "no GPU that is a target" if here is None else f"target {here}"
    raise InputError(
        f"--target {wanted}: this host has {found}, and an upgrade builds on the host that it runs on; run it on a"
        f" runner with {wanted}, or choose --target {here or CPU}"
    )


def choose_engines(registry: Registry, models: Sequence[str], channel: ChannelName, target: str) -> list[Chosen]:
    """What the channel points at, for the models that are named or else for all, by the models' names.

    Raises:
        InputError: a name is none of a model, or no model has such a channel.
    """
    for model in models:
        if not is_model_name(model):
            raise InputError(f"--model {model!r}: is no name of a model; it reads as `name` in its model.yaml")
    if models:
        addresses = [ChannelAddress(model, target, channel) for model in dict.fromkeys(models)]
        return in_threads(lambda address: _read(registry, address, needed=True), addresses)
    listed = survey_registry(registry.objects).channels
    addresses = sorted(
        (one for one in listed if (one.target, one.channel) == (target, channel)), key=lambda one: one.model
    )
    found = in_threads(lambda address: _read(registry, address, needed=False), addresses)
    chosen = [one for one in found if one.engine is not None or one.fault is not None]
    if not chosen:
        raise InputError(
            f"no model's {channel.value} points at an engine for {target}; `enginegate engines` lists what is"
            " registered and where channels point"
        )
    return chosen


def _read(registry: Registry, address: ChannelAddress, *, needed: bool) -> Chosen:
    try:
        move = registry.channels.read(address).current
        if move is None:
            fault = f"{address}: points at no engine; {advise_step(registry, address)}"
            return Chosen(address, None, InputError(fault) if needed else None)
        engine = engine_of(registry, move)
        require_servable(registry, engine)
    except RefusedError as error:
        return Chosen(address, None, error)
    return Chosen(address, engine)


def require_host(session: Session) -> None:
    """See before the long work that what is signed here is trusted here, and that MLflow answers.

    Raises:
        EnginegateError: a key or an address is at fault.
    """
    session.registry.signing.seal("manifest", {})
    session.tracker.connect()
