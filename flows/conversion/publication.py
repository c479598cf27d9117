"""Publishes what a conversion made, and points `candidate` at the best engine of each target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import label_of
from flows.stage import in_flow
from tasks.errors import EnginegateError
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.publish import describe_engine, publish_engine
from tasks.release.select import point_candidate
from validation.verdict import Outcome

if TYPE_CHECKING:
    from flows.conversion.conversion_plan import ConversionPlan
    from flows.session import Session
    from tasks.records import DataArtifact, EngineOutcome, ReferenceArtifact


def require_registry(session: Session, plan: ConversionPlan) -> None:
    """See before the long work that the registry can be read, and that what is signed here is trusted here.

    Raises:
        EnginegateError: a key, the address or the rights are at fault, or the channel `candidate` is damaged.
    """
    session.registry.signing.seal("manifest", {})
    for target in dict.fromkeys(cell.target for cell in plan.cells):
        session.registry.channels.read(ChannelAddress(plan.directory.spec.name, target, ChannelName.CANDIDATE))


def tell_registered(session: Session, plan: ConversionPlan) -> None:
    """Say which engines that are to be made again are registered, and what becomes of those."""
    for cell in plan.cells:
        if session.registry.engines.has(cell):
            session.reporter.say(
                f"! {cell.engine_id} is registered and stays as it is: what is made again is compared and logged, and"
                " refused by the registry unless it is the same, byte for byte"
            )


def publish_all(
    session: Session,
    plan: ConversionPlan,
    outcomes: list[EngineOutcome],
    data: DataArtifact,
    reference: ReferenceArtifact,
    runs: dict[str, str],
) -> None:
    """Publish every engine that passed, and point `candidate` at the best of each target.

    One that is refused does not keep the others out.
    """
    faults: list[EnginegateError] = []
    for outcome in outcomes:
        try:
            _publish(session, plan, outcome, data, reference, runs[outcome.cell.engine_id])
        except EnginegateError as error:
            faults.append(error)
    passed = {outcome.cell.target: None for outcome in outcomes if outcome.outcome is Outcome.PASS}
    for target in passed:  # in the plan's order
        try:
            _point_candidate(session, plan, target)
        except EnginegateError as error:
            faults.append(error)
    if faults:
        raise type(faults[0])("\n".join(map(str, faults)))


def _publish(
    session: Session,
    plan: ConversionPlan,
    outcome: EngineOutcome,
    data: DataArtifact,
    reference: ReferenceArtifact,
    run: str,
) -> None:
    """Publish an engine that passed; one that was measured and did not is kept, for an override."""
    if outcome.verdict is None or outcome.benchmark is None:
        return
    manifest = describe_engine(
        session.stage_context(),
        plan.directory.spec,
        outcome,
        data,
        reference,
        source_commit=plan.source_commit,
        mlflow_run=run,
        who=session.settings.actor,
        policy_floor=None if plan.floor is None else plan.floor.digest,
    )
    if outcome.outcome is not Outcome.PASS:
        session.rejected.keep(manifest)
        if session.registry.engines.has(outcome.cell):
            session.reporter.say(
                f"! {outcome.cell.engine_id} is registered, by a conversion before, and this one does not pass: the"
                " registered one stays; if it serves, roll back its channels or promote another"
            )
        return
    session.reporter.step(
        f"register {label_of(outcome.cell)}",
        lambda progress: in_flow(publish_engine)(session.stage_context(progress), session.registry, manifest),
        lambda new: "registered" if new else "registered before",
    )


def _point_candidate(session: Session, plan: ConversionPlan, target: str) -> None:
    model, version = plan.directory.spec.name, plan.version
    session.reporter.step(
        f"candidate {target}",
        lambda _: in_flow(point_candidate)(session.registry, model, version, target, session.settings.actor),
        lambda move: move.engine_id if move else "was pointed at this version before",
    )
