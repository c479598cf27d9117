"""Makes registered engines again on this host, beside those that they would replace; no channel moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flows.console import FAILED, label_of
from flows.conversion.calibration_sets import count_groups
from flows.conversion.engine_making import make_here
from flows.conversion.verdicts import judge_together
from flows.runners.gpu_lock import hold_target
from flows.stage import run_stage
from flows.upgrades.selection import Chosen, choose_engines, require_host, target_to_build
from flows.upgrades.upgrade_publication import publish_upgrade, track_upgrade
from flows.upgrades.upgrade_report import UpgradedEngine, UpgradeReport, skipped, unchanged
from flows.upgrades.validation_data import FoundData, find_data
from tasks.backends import backend_of
from tasks.errors import EnginegateError, RefusedError, StageError, worst_of
from tasks.rebuild_records import Discard
from tasks.records import Cell, EngineJob
from tasks.release.rebuilt_job import (
    STAND_IN,
    is_same,
    parse_options,
    plugins_of,
    reference_of,
    spec_of,
    take_all,
    typed_of,
    upgraded_version,
)
from tasks.release.select import require_servable
from tasks.stages.engine_race import race_engines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flows.session import Session
    from tasks.errors import ExitCode
    from tasks.records import EngineManifest, EngineOutcome, TypedModel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelAddress, ChannelName
    from tasks.specs import ModelSpec
    from tasks.timings import EngineRace
    from validation.policy import Policy

AGAIN = "upgrade-again"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Wish:
    """What the command line asks of each engine: builder's options, places of validation data, and why again."""

    options: Mapping[str, Any]
    data: Sequence[Path]
    again: str | None


@dataclass(frozen=True)
class Planned:
    """An engine that is to be made again: the registered one, and everything that its job takes but the files."""

    address: ChannelAddress
    old: SignedManifest
    cell: Cell
    spec: ModelSpec
    policy: Policy
    policy_floor: str | None
    found: FoundData

    @property
    def manifest(self) -> EngineManifest:
        """That of the registered engine."""
        return self.old.manifest


def run_upgrade(
    session: Session,
    models: Sequence[str],
    channel: ChannelName,
    target: str | None,
    *,
    build: Sequence[str] = (),
    data: Sequence[Path] = (),
    again: str | None = None,
) -> tuple[UpgradeReport, ExitCode]:
    """Make again what a channel points at for a target; return what came of it, and the exit code.

    An engine that cannot be believed, or whose data are not to be had, does not keep the others from it.

    Raises:
        EnginegateError: nothing was begun: this host cannot build for the target, there is no such channel, or what
            is made could not be registered.
    """
    wish = Wish(parse_options(build), data, again)
    place = target_to_build(target)
    chosen = choose_engines(session.registry, models, channel, place)
    found = [_unless_refused(session, one.address, one.engine, partial(_plan, session, one, wish)) for one in chosen]
    if any(isinstance(one, Planned) for one in found):
        require_host(session)
    engines = tuple(_carry_out(session, one, wish) if isinstance(one, Planned) else one for one in found)
    return UpgradeReport(channel=channel.value, target=place, engines=engines), worst_of(one.code for one in engines)


def _unless_refused(
    session: Session, address: ChannelAddress, engine: SignedManifest | None, work: Callable[[], Result]
) -> Result | UpgradedEngine:
    """What `work` gives; where it fails, an engine that is left out, so that the others go on."""
    try:
        return work()
    except EnginegateError as error:
        session.reporter.marked(f"{FAILED} {address}: left out; the report says why")
        return skipped(address, engine, error)


def _carry_out(session: Session, planned: Planned, wish: Wish) -> UpgradedEngine:
    session.reporter.say(f"{planned.manifest.engine_id} → {planned.cell.engine_id}")
    return _unless_refused(session, planned.address, planned.old, partial(_make, session, planned, wish))


def _plan(session: Session, one: Chosen, wish: Wish) -> Planned | UpgradedEngine:
    """What is to be done about an engine, or what there is to say where that is nothing."""
    address, engine = one.address, one.engine
    if engine is None:
        raise one.fault or RefusedError(f"{address}: cannot be read")
    manifest = engine.manifest
    backend = backend_of(manifest.cell.runtime)
    spec = spec_of(manifest, wish.options)
    identity, options = backend.identity(), backend.options(spec.build, manifest.cell.precision)
    if wish.again is None and is_same(manifest, identity, options):
        return unchanged(address, engine)
    floor = session.policy_floor
    policy = manifest.policy if floor is None else floor.tighten(manifest.policy, spec.output_specs()).policy
    version = upgraded_version(engine, identity, options, policy, wish.again)
    cell = manifest.cell.model_copy(update={"version": version})
    if session.registry.engines.has(cell):
        before = session.registry.engines.read_signed(cell)
        require_servable(session.registry, before)
        return UpgradedEngine.made_before(address, engine, before.manifest)
    smoke = manifest.smoke
    take_all(session.stage_context(), session.registry, (manifest.reference_outputs, smoke.inputs, smoke.reference))
    found = find_data(session, manifest, spec, wish.data)
    kept = manifest.policy_floor if floor is None else floor.digest
    return Planned(address, engine, cell, spec, policy, kept, found)


def _make(session: Session, planned: Planned, wish: Wish) -> UpgradedEngine:
    """Make an engine, time it beside the old one, log and register it."""
    job = _job(session, planned, wish)
    outcome = make_here(session, job)
    calibration = planned.manifest.calibration
    (outcome,) = judge_together([outcome.model_copy(update={"calibration": calibration})])
    session.reporter.verdict(outcome)
    race = _race(session, planned, job, outcome)
    run = track_upgrade(session, planned.manifest, job, outcome)
    made = publish_upgrade(session, planned.manifest, job, outcome, mlflow_run=run, policy_floor=planned.policy_floor)
    return UpgradedEngine.made(planned.address, planned.old, outcome, made, race, _notes(planned, job))


def _job(session: Session, planned: Planned, wish: Wish) -> EngineJob:
    """The job, with its files in the store."""
    manifest, spec, data = planned.manifest, planned.spec, planned.found.data
    typed, plugins = typed_of(manifest), plugins_of(manifest)
    reference = reference_of(session.store, manifest)
    wanted = (typed.onnx, None if typed.half is None else typed.half.onnx, manifest.plan, plugins)
    session.reporter.step(
        f"fetch {label_of(planned.cell)}",
        lambda progress: take_all(session.stage_context(progress), session.registry, filter(None, wanted)),
        lambda size_bytes: f"graph and engine, {size_bytes / 1e6:.1f} MB of the registry's",
    )
    counted = count_groups(session, f"samples of {spec.name}", spec, data)
    return EngineJob(
        cell=planned.cell,
        spec=spec,
        policy=planned.policy,
        typed=typed,
        data=data,
        reference=reference,
        module=None,
        plugins=plugins,
        groups=counted.groups,
        again=None if wish.again is None else _discard(session, planned.cell, wish.again),
    )


def _discard(session: Session, cell: Cell, reason: str) -> Discard:
    """Why what is cached goes, the same as long as this upgrade is not done: one that was killed goes on."""
    known = session.store.read_record(AGAIN, cell.version)
    if known is not None:
        return Discard.model_validate(known)
    now = datetime.now(timezone.utc).isoformat()
    made = Discard(reason=reason, who=session.settings.actor, when=now)
    session.store.write_record(AGAIN, cell.version, made.model_dump(mode="json"))
    return made


def _race(session: Session, planned: Planned, job: EngineJob, outcome: EngineOutcome) -> EngineRace | None:
    """The new engine and the old one in turns; None where there is no new one, or this host cannot load the old one."""
    if outcome.engine is None or outcome.benchmark is None:
        return None
    old, label = planned.manifest, label_of(job.cell)
    plans = (outcome.engine.plan, old.plan)
    try:
        with hold_target(job.cell.target):
            return run_stage(
                session, f"race {label}", race_engines, _describe_race, job, *plans, old.backend, old.options
            )
    except (RefusedError, StageError):
        session.reporter.say("! the engine before is not timed here: its latencies are those of its manifest")
        return None


def _describe_race(race: EngineRace) -> str:
    at = race.headline
    return f"{at.speedup:.2f}x as fast [{at.low:.2f}, {at.high:.2f}] at batch {race.headline_batch}"


def _notes(planned: Planned, job: EngineJob) -> tuple[str, ...]:
    """What is to be said of an upgrade beside its verdict."""
    manifest, notes = planned.manifest, [planned.found.note, _left_in_float(planned.manifest, job.typed)]
    if job.reference.fresh != manifest.fresh:
        notes.append(STAND_IN)
    return tuple(filter(None, notes))


def _left_in_float(manifest: EngineManifest, typed: TypedModel) -> str:
    """What is to be said of an INT8 graph that builders which take types run partly in FP32."""
    cell = manifest.cell
    if not cell.wants_half or typed.half is not None or "around" in typed.recipe:
        return ""
    if not backend_of(cell.runtime).takes_types():
        return ""
    return (
        "its graph has no FP16 around INT8, and this release runs in FP32 what is not quantized; convert the model"
        " again to have both"
    )
