"""The conversion of one model: a flow, with a sub-flow for each engine, here or on a runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from flows.conversion.calibration_sets import sample_of, take_data
from flows.conversion.checked_calibration import calibrate, read_calibration
from flows.conversion.conversion_plan import plan_conversion, version_of
from flows.conversion.engine_flow import make_engine
from flows.conversion.precision_search import Retrying, retry_failed
from flows.conversion.publication import publish_all, require_registry
from flows.conversion.verdicts import judge_together
from flows.runners.dispatch import dispatched, targets_elsewhere
from flows.runners.handover import leave_job
from flows.session import current_session
from flows.stage import in_flow, run_stage
from tasks.errors import InputError, StageError
from tasks.model.model_directory import read_model_directory
from tasks.records import DataArtifact, EngineJob, EngineOutcome, TypedModel
from tasks.specs import Precision
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.stages.reference import run_reference
from tasks.stages.track import describe_conversion, track_conversion
from tasks.torch_side.module_source import store_module, store_plugins
from validation.verdict import Outcome

if TYPE_CHECKING:
    from flows.conversion.checked_calibration import Calibration
    from flows.conversion.conversion_plan import ConversionPlan
    from flows.session import Session
    from tasks.records import ExportedModel, ReferenceArtifact
    from validation.policy import Policy


def prepare(session: Session, plan: ConversionPlan) -> None:
    """Read the data and export the module outside Prefect: what the flow's own tasks then find done.

    Raises:
        InputError: the data, the source or the weights cannot be used, or the policy names a slice that is not there.
    """
    require_registry(session, plan)
    directory = plan.directory
    data = take_data(session, "validation data", directory.spec, directory.validation, "validation.data")
    _policies(plan, data)
    if Precision.INT8 in plan.precisions:
        checked, _ = read_calibration(session, directory)
        sample_of(checked)  # one that is not there shows before the long work
    run_stage(session, "export", export_onnx, _describe_export, directory, data)


@flow(name="convert", flow_run_name="{model_directory}", persist_result=False)
def convert_model(
    model_directory: str,
    targets: list[str] | None = None,
    precisions: list[str] | None = None,
    only: str | None = None,
    accept_calibration: str | None = None,
    source_commit: str | None = None,
) -> list[EngineOutcome]:
    """Convert the model in `model_directory`: make, judge, track and register its engines.

    `accept_calibration` is the reason for quantizing although the check of the calibration set found something.
    `source_commit` is the commit that the directory was exported from; without it, git is asked.

    Raises:
        InputError: the directory cannot be used, or a target has no runner that could be asked.
        StageError: export, reference or tracking failed. A failure of one engine only is its outcome instead.
    """
    session = current_session()
    directory = read_model_directory(Path(model_directory))
    plan = plan_conversion(directory, targets=targets or (), precisions=precisions or (), only=only)
    plan = plan if source_commit is None else replace(plan, source_commit=source_commit)
    require_registry(session, plan)
    elsewhere = targets_elsewhere(plan.cells)
    data = take_data(session, "validation data", directory.spec, directory.validation, "validation.data")
    policies = _policies(plan, data)
    exported = run_stage(session, "export", export_onnx, _describe_export, directory, data)
    reference = run_stage(session, "reference", run_reference, lambda _: "PyTorch FP32 outputs", directory, data)
    calibration = None
    if Precision.INT8 in plan.precisions:
        calibration = calibrate(session, directory, data, exported, accept_calibration)
    typed = _convert_precisions(session, plan, exported, calibration)
    jobs = _jobs(session, plan, policies, typed, data, reference)
    made = _make_all(session, plan, jobs, typed, elsewhere)
    if directory.spec.precision_search and calibration is not None:
        made = retry_failed(_retrying(session, plan, exported, calibration, data, elsewhere), jobs, made)
    outcomes = _judge_all(session, _with_calibration(made, calibration))
    # Every stage read its own files of the directory: only if all of it is still the same do they belong together.
    if version_of(read_model_directory(Path(model_directory))) != plan.version:
        raise InputError(f"{model_directory}: changed while it was converted; run the conversion again")
    runs = _track(session, plan, exported, data, reference, outcomes, calibration)
    publish_all(session, plan, outcomes, data, reference, runs)
    return outcomes


def _policies(plan: ConversionPlan, data: DataArtifact) -> dict[Precision, Policy]:
    return {precision: plan.directory.policy(precision, data.slices) for precision in plan.precisions}


def _jobs(
    session: Session,
    plan: ConversionPlan,
    policies: dict[Precision, Policy],
    typed: dict[Precision, TypedModel | str],
    data: DataArtifact,
    reference: ReferenceArtifact,
) -> list[EngineJob]:
    """For each engine that can be made, everything that its runner needs."""
    context, directory = session.stage_context(), plan.directory
    module, plugins = store_module(context, directory).result, store_plugins(context, directory)
    return [
        EngineJob(
            cell=cell,
            spec=directory.spec,
            policy=policies[cell.precision],
            typed=converted,
            data=data,
            reference=reference,
            module=module,
            plugins=plugins,
        )
        for cell in plan.cells
        if isinstance(converted := typed[cell.precision], TypedModel)
    ]


def _make_all(
    session: Session,
    plan: ConversionPlan,
    jobs: list[EngineJob],
    typed: dict[Precision, TypedModel | str],
    elsewhere: set[str],
) -> list[EngineOutcome]:
    """Make every engine: those of runners at once, meanwhile the others here, one after the other."""
    outcomes = [
        EngineOutcome(cell=cell, outcome=Outcome.FAIL, reason=reason)
        for cell in plan.cells
        if isinstance(reason := typed[cell.precision], str)
    ]
    for outcome in outcomes:
        session.reporter.verdict(outcome)
    outcomes += _make(session, jobs, elsewhere)
    return sorted(outcomes, key=lambda outcome: plan.cells.index(outcome.cell))


def _make(session: Session, jobs: list[EngineJob], elsewhere: set[str]) -> list[EngineOutcome]:
    outcomes = []
    with dispatched(session, [job for job in jobs if job.cell.target in elsewhere]) as collect:
        for job in jobs:
            if job.cell.target not in elsewhere:
                outcomes.append(make_engine(job.cell.engine_id, leave_job(session.store, job)))
                if outcomes[-1].is_settled:
                    session.reporter.verdict(outcomes[-1])
        return outcomes + collect()


def _retrying(
    session: Session,
    plan: ConversionPlan,
    exported: ExportedModel,
    calibration: Calibration,
    data: DataArtifact,
    elsewhere: set[str],
) -> Retrying:
    return Retrying(
        session=session,
        spec=plan.directory.spec,
        exported=exported,
        calibration=calibration,
        data=data,
        make=lambda jobs: _make(session, jobs, elsewhere),
    )


def _with_calibration(outcomes: list[EngineOutcome], calibration: Calibration | None) -> list[EngineOutcome]:
    if calibration is None:
        return outcomes
    return [
        outcome.model_copy(update={"calibration": calibration.record})
        if outcome.cell.precision is Precision.INT8
        else outcome
        for outcome in outcomes
    ]


def _judge_all(session: Session, made: list[EngineOutcome]) -> list[EngineOutcome]:
    """The last verdicts; told are those that were not settled before."""
    judged = judge_together(made)
    for before, outcome in zip(made, judged, strict=True):
        if not before.is_settled:
            session.reporter.verdict(outcome)
    return judged


def _describe_export(exported: ExportedModel) -> str:
    worst = max(exported.checks.values(), default=0.0)
    return f"ONNX opset {exported.opset}, within {worst:.1e} of PyTorch at {len(exported.checks)} shapes"


def _convert_precisions(
    session: Session, plan: ConversionPlan, exported: ExportedModel, calibration: Calibration | None
) -> dict[Precision, TypedModel | str]:
    """A typed model for each precision, or the reason why there is none."""
    directory = plan.directory
    typed: dict[Precision, TypedModel | str] = {}
    for precision in plan.precisions:
        if precision is Precision.INT8 and calibration is not None and calibration.refusal:
            typed[precision] = calibration.refusal
            continue
        data = calibration.data if precision is Precision.INT8 and calibration is not None else None
        name = f"convert {precision.value}"
        try:
            typed[precision] = run_stage(
                session, name, convert_precision, _describe_recipe, exported, precision, directory.spec, data
            )
        except StageError as error:
            typed[precision] = str(error)
    return typed


def _describe_recipe(typed: TypedModel) -> str:
    return typed.recipe["converter"]


def _track(
    session: Session,
    plan: ConversionPlan,
    exported: ExportedModel,
    data: DataArtifact,
    reference: ReferenceArtifact,
    outcomes: list[EngineOutcome],
    calibration: Calibration | None,
) -> dict[str, str]:
    report = None if calibration is None else calibration.report
    accepted = None if calibration is None else calibration.record.accepted
    conversion = describe_conversion(plan.directory, plan.version, plan.source_commit, data, exported, report, accepted)
    return session.reporter.step(
        "track",
        lambda progress: in_flow(track_conversion)(
            session.stage_context(progress), session.tracker, conversion, outcomes, data, reference
        ),
        lambda runs: f"MLflow experiment {conversion.model}, {len(runs)} engine runs",
    )
