"""The conversion of one model: a flow, with a sub-flow for each engine, here or on a runner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from flows.console import label_of
from flows.conversion.calibration_sets import count_groups, take_data
from flows.conversion.checked_calibration import Calibration, calibrate
from flows.conversion.conversion_plan import ConversionPlan, plan_conversion, refuse_changes
from flows.conversion.engine_flow import make_engine
from flows.conversion.precision_search import Retrying, retry_failed
from flows.conversion.preflight import Preflight, describe_probe, policies_of, settle_kinds
from flows.conversion.publication import publish_all, require_registry, tell_registered
from flows.conversion.verdicts import judge_together
from flows.runners.dispatch import dispatched, targets_elsewhere
from flows.runners.handover import leave_job
from flows.session import Session, current_session
from flows.stage import in_flow, run_stage
from tasks.backends import trt_rtx
from tasks.errors import StageError, printable
from tasks.model.model_directory import read_model_directory
from tasks.rebuild_records import Discard
from tasks.records import (
    Cell,
    DataArtifact,
    EngineJob,
    EngineOutcome,
    ExportedModel,
    ReferenceArtifact,
    TypedModel,
)
from tasks.runtimes import RUNTIMES
from tasks.source_spec import PYTORCH
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.stages.fresh import run_fresh
from tasks.stages.probe import probe_module
from tasks.stages.reference import run_reference
from tasks.stages.track import describe_conversion, track_conversion
from tasks.stages.witness import ask_rtx
from tasks.torch_side.interface import NOTES
from tasks.torch_side.module_source import store_module, store_plugins
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.artifact import Artifact
    from tasks.fresh_records import FreshArtifact
    from tasks.specs import Precision
    from validation.policy import Policy


def prepare(session: Session, plan: ConversionPlan, begun: Preflight | None = None) -> None:
    """Look at all that could stop the conversion, and export the module, outside Prefect: the flow finds it done.

    Raises:
        EnginegateError: what stops it, all in one, before the export; or the export failed.
    """
    look = begun or Preflight(session, plan)
    look.examine()
    look.refuse()
    look.tell_warnings()
    directory = look.plan.directory
    data = take_data(session, "validation data", directory.spec, directory.validation, "validation.data")
    describe_export = partial(_describe_export, against=directory.spec.reference)
    run_stage(session, "export", export_onnx, describe_export, directory, data)


@flow(name="convert", flow_run_name="{model_directory}", persist_result=False)
def convert_model(
    model_directory: str,
    targets: list[str] | None = None,
    precisions: list[str] | None = None,
    only: str | None = None,
    accept_calibration: str | None = None,
    source_commit: str | None = None,
    again: str | None = None,
) -> list[EngineOutcome]:
    """Convert the model in `model_directory`: make, judge, track and register its engines.

    `accept_calibration` is the reason for quantizing although the check of the calibration set found something.
    `source_commit` is the commit that the directory was exported from; without it, git is asked. `again` is the reason
    for throwing away what is cached of the engines' builds, comparisons and benchmarks.

    Raises:
        InputError: the directory cannot be used, or a target has no runner that could be asked.
        StageError: export, reference or tracking failed. A failure of one engine only is its outcome instead.
    """
    session = current_session()
    directory = read_model_directory(Path(model_directory))
    floor = session.policy_floor
    plan = plan_conversion(directory, targets=targets or (), precisions=precisions or (), only=only, floor=floor)
    plan = plan if source_commit is None else replace(plan, source_commit=source_commit)
    require_registry(session, plan)
    if again is not None:
        tell_registered(session, plan)
    elsewhere = targets_elsewhere(plan.cells)
    data = take_data(session, "validation data", directory.spec, directory.validation, "validation.data")
    plan = settle_kinds(plan, run_stage(session, "module", probe_module, describe_probe, directory, data))
    directory = plan.directory
    counted = count_groups(session, "samples", directory.spec, data)
    policies = policies_of(plan, data, counted)
    against = directory.spec.reference
    describe_export = partial(_describe_export, against=against)
    exported = run_stage(session, "export", export_onnx, describe_export, directory, data)
    calibration = None
    if any(precision.is_quantized for precision in plan.precisions):
        calibration = calibrate(session, directory, data, exported, accept_calibration)
    discard = None if again is None else _discard(session, again)
    work = _Conversion(session, plan, elsewhere, data, exported, calibration, counted.groups, discard)
    typed = work.convert_precisions()
    describe_fresh = partial(_describe_fresh, against=against)
    reference = run_stage(session, "reference", run_reference, lambda _: _describe_reference(against), directory, data)
    fresh = run_stage(session, "fresh inputs", run_fresh, describe_fresh, directory, data, exported)
    reference = reference.model_copy(update={"fresh": fresh})
    outcomes = work.make_all(policies, typed, reference)
    refuse_changes(plan, model_directory)
    publish_all(session, plan, outcomes, data, reference, work.track(outcomes, reference))
    return outcomes


@dataclass(frozen=True)
class _Typed:
    """The typed model of each precision, and an outcome for every engine whose precision has none."""

    models: dict[Precision, TypedModel]
    failed: list[EngineOutcome]


@dataclass(frozen=True)
class _Conversion:
    """A conversion whose module is exported: `elsewhere` are the targets whose engines runners make."""

    session: Session
    plan: ConversionPlan
    elsewhere: set[str]
    data: DataArtifact
    exported: ExportedModel
    calibration: Calibration | None
    groups: Artifact | None
    again: Discard | None = None

    def convert_precisions(self) -> _Typed:
        """Convert to every precision, and tell at once which engines cannot be made, and what TensorRT's parser says.

        INT8 and FP8 come first: that a graph has nothing to quantize takes a second to find out.
        """
        typed: dict[Precision, TypedModel] = {}
        failed: list[EngineOutcome] = []
        for precision in sorted(self.plan.precisions, key=lambda precision: not precision.is_quantized):
            cells = [cell for cell in self.plan.cells if cell.precision is precision]
            try:
                typed[precision] = self._convert(precision)
            except StageError as error:
                for cell in cells:
                    failed.append(EngineOutcome(cell=cell, outcome=Outcome.FAIL, reason=str(error)))
                    self.session.reporter.verdict(failed[-1])
            else:
                self._ask_parser(cells, typed[precision])
        return _Typed(typed, failed)

    def make_all(
        self, policies: dict[Precision, Policy], typed: _Typed, reference: ReferenceArtifact
    ) -> list[EngineOutcome]:
        """Make and judge every engine, and tell the verdicts as they are settled."""
        jobs = self._jobs(policies, typed, reference)
        outcomes = [*typed.failed, *self._make(jobs)]
        made = sorted(outcomes, key=lambda outcome: self.plan.cells.index(outcome.cell))
        spec = self.plan.directory.spec
        if spec.precision_search and self.calibration is not None:
            retrying = Retrying(self.session, spec, self.exported, self.calibration, self.data, self._make)
            made = retry_failed(retrying, jobs, made)
        return self._judge(made)

    def _convert(self, precision: Precision) -> TypedModel:
        calibration = self.calibration if precision.is_quantized else None
        if calibration is not None and calibration.refusal:
            raise StageError(calibration.refusal)
        return run_stage(
            self.session,
            f"convert {precision.value}",
            convert_precision,
            _describe_typed,
            self.exported,
            precision,
            self.plan.directory.spec,
            None if calibration is None else calibration.data,
            data=self.data,
            half=any(cell.wants_half for cell in self.plan.cells),
        )

    def _ask_parser(self, cells: list[Cell], typed: TypedModel) -> None:
        """Tell what TensorRT's parser of today says of each engine's graph, before a GPU is taken. It stops nothing."""
        if trt_rtx.release_here() is None:
            return
        for cell in cells:
            if not RUNTIMES[cell.runtime].typed:
                continue
            name = f"parse {label_of(cell)}"
            try:
                report = run_stage(self.session, name, ask_rtx, lambda found: found.headline, typed)
            except StageError as error:
                self.session.reporter.say(f"! {name}: {error}")
                continue
            for node in report.nodes:
                self.session.reporter.say(f"! {printable(node)}")

    def _jobs(self, policies: dict[Precision, Policy], typed: _Typed, reference: ReferenceArtifact) -> list[EngineJob]:
        """For each engine that can be made, everything that its runner needs."""
        context, directory = self.session.stage_context(), self.plan.directory
        module, plugins = store_module(context, directory).result, store_plugins(context, directory)
        return [
            EngineJob(
                cell=cell,
                spec=directory.spec,
                policy=policies[cell.precision],
                typed=typed.models[cell.precision],
                data=self.data,
                reference=reference,
                module=module,
                plugins=plugins,
                groups=self.groups,
                again=self.again,
            )
            for cell in self.plan.cells
            if cell.precision in typed.models
        ]

    def _make(self, jobs: list[EngineJob]) -> list[EngineOutcome]:
        """Make engines: those of runners at once, meanwhile the others here, one after the other."""
        outcomes = []
        with dispatched(self.session, [job for job in jobs if job.cell.target in self.elsewhere]) as collect:
            for job in jobs:
                if job.cell.target not in self.elsewhere:
                    outcomes.append(make_engine(job.cell.engine_id, leave_job(self.session.store, job)))
                    if outcomes[-1].is_settled:
                        self.session.reporter.verdict(outcomes[-1])
            return outcomes + collect()

    def _judge(self, made: list[EngineOutcome]) -> list[EngineOutcome]:
        """The last verdicts; told are those that were not settled before."""
        if self.calibration is not None:
            quantized = {"calibration": self.calibration.record}
            made = [one.model_copy(update=quantized) if one.cell.precision.is_quantized else one for one in made]
        judged = judge_together(made)
        for before, outcome in zip(made, judged, strict=True):
            if not before.is_settled:
                self.session.reporter.verdict(outcome)
        return judged

    def track(self, outcomes: list[EngineOutcome], reference: ReferenceArtifact) -> dict[str, str]:
        """Log the conversion; return run ids by engine id."""
        plan, calibration = self.plan, self.calibration
        report = None if calibration is None else calibration.report
        accepted = None if calibration is None else calibration.record.accepted
        conversion = describe_conversion(
            plan.directory, plan.version, plan.source_commit, self.data, self.exported, report, accepted
        )
        return self.session.reporter.step(
            "track",
            lambda progress: in_flow(track_conversion)(
                self.session.stage_context(progress),
                self.session.tracker,
                conversion,
                outcomes,
                self.data,
                reference,
            ),
            lambda runs: f"MLflow experiment {conversion.model}, {len(runs)} engine runs",
        )


def _discard(session: Session, reason: str) -> Discard:
    now = datetime.now(timezone.utc).isoformat()  # to the microsecond: each conversion throws away what is there
    return Discard(reason=reason, who=session.settings.actor, when=now)


def _describe_reference(reference: str) -> str:
    return f"outputs of {reference}" if reference != PYTORCH else "PyTorch FP32 outputs"


def _describe_export(exported: ExportedModel, *, against: str) -> str:
    worst = max(exported.checks.values(), default=0.0)
    told = "".join(f"; {about}: {exported.recipe[about]}" for about in NOTES if about in exported.recipe)
    return f"ONNX opset {exported.opset}, within {worst:.1e} of {against} at {len(exported.checks)} shapes{told}"


def _describe_typed(typed: TypedModel) -> str:
    """The converter, why it is not the one that is tried first, and how its graph is loaded if not as others are."""
    instead, loaded = (typed.recipe.get(about) for about in ("instead_of", "loaded_at"))
    told = (f"instead of {instead}" if instead else None, loaded)
    return ", ".join((typed.recipe["converter"], *filter(None, told)))


def _describe_fresh(fresh: FreshArtifact, *, against: str) -> str:
    left_out = f"; left out: {fresh.refused[0]}" if fresh.refused else ""
    return f"{fresh.samples} samples in no file, the graph within {fresh.difference:.1e} of {against}{left_out}"
