"""The conversion of one model: a flow, with a sub-flow for each engine.

The stages are plain functions of `tasks/`; here they become Prefect tasks and are put in order. The stage cache is
the artifact store's own (`tasks.memo`), because it must hold without Prefect too; Prefect's is off.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from flows.planning import plan_conversion, version_of
from flows.session import current_session
from tasks.benchmark import benchmark_engine
from tasks.build import build_engine
from tasks.compare import compare_engine
from tasks.convert import convert_precision
from tasks.data import ingest
from tasks.errors import InputError, RefusedError, StageError
from tasks.export import export_onnx
from tasks.model_directory import read_model_directory
from tasks.publish import publish_engine
from tasks.reference import run_reference
from tasks.specs import Cell, DataArtifact, EngineOutcome, Precision, ReferenceArtifact, TypedModel
from tasks.track import describe_conversion, track_conversion
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.planning import ConversionPlan
    from flows.session import Session
    from tasks.memo import Remembered
    from tasks.model_directory import ModelDirectory
    from tasks.specs import Benchmark, BuiltEngine, ExportedModel, ModelSpec
    from tasks.workbench import Workbench


Result = TypeVar("Result", bound=BaseModel)
Arguments = ParamSpec("Arguments")

_as_task = task(cache_policy=NO_CACHE, persist_result=False)

ingest_task = _as_task(ingest)
export_task = _as_task(export_onnx)
reference_task = _as_task(run_reference)
convert_task = _as_task(convert_precision)
build_task = _as_task(build_engine)
compare_task = _as_task(compare_engine)
benchmark_task = _as_task(benchmark_engine)
track_task = _as_task(track_conversion)
publish_task = _as_task(publish_engine)


def _stage(
    session: Session,
    name: str,
    stage: Callable[Concatenate[Workbench, Arguments], Remembered[Result]],
    describe: Callable[[Result], str],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> Result:
    """Run a cached stage under the reporter, and return its result."""
    return session.reporter.step(
        name,
        lambda progress: stage(session.bench(progress), *arguments, **options),
        lambda remembered: describe(remembered.result),
    ).result


def prepare(session: Session, plan: ConversionPlan) -> None:
    """Read the data and export the module outside Prefect: what the flow's own tasks then find done.

    Raises:
        InputError: the data, the source or the weights cannot be used.
    """
    directory = plan.directory
    data = _data(session, ingest, "validation data", directory, directory.validation, "validation.data")
    if Precision.INT8 in plan.precisions:
        _data(session, ingest, "calibration data", directory, directory.calibration, "calibration.set")
    _stage(session, "export", export_onnx, _describe_export, directory, data)


@flow(name="convert", flow_run_name="{model_directory}", persist_result=False)
def convert_model(
    model_directory: str,
    targets: list[str] | None = None,
    precisions: list[str] | None = None,
    only: str | None = None,
) -> list[EngineOutcome]:
    """Convert the model in `model_directory`: make, judge, track and register its engines.

    Raises:
        InputError: the directory cannot be used.
        StageError: export, reference or tracking failed. A failure of one engine only is its outcome instead.
    """
    session = current_session()
    directory = read_model_directory(Path(model_directory))
    plan = plan_conversion(directory, targets=targets or (), precisions=precisions or (), only=only)
    data = _data(session, ingest_task, "validation data", directory, directory.validation, "validation.data")
    exported = _stage(session, "export", export_task, _describe_export, directory, data)
    reference = _stage(session, "reference", reference_task, lambda _: "PyTorch FP32 outputs", directory, data)
    typed = _convert_precisions(session, plan, exported)
    outcomes = []
    for cell in plan.cells:
        converted = typed[cell.precision]
        if isinstance(converted, TypedModel):
            outcomes.append(make_engine(model_directory, cell, converted, data, reference))
        else:
            outcomes.append(EngineOutcome(cell=cell, outcome=Outcome.FAIL, reason=converted))
        session.reporter.verdict(outcomes[-1])
    # Every stage read its own files of the directory: only if all of it is still the same do they belong together.
    if version_of(read_model_directory(Path(model_directory))) != plan.version:
        raise InputError(f"{model_directory}: changed while it was converted; run the conversion again")
    runs = _track(session, plan, exported, data, reference, outcomes)
    _register_all(session, plan, outcomes, reference, runs)
    return outcomes


def _register_all(
    session: Session,
    plan: ConversionPlan,
    outcomes: list[EngineOutcome],
    reference: ReferenceArtifact,
    runs: dict[str, str],
) -> None:
    """Register every engine that passed; one that is refused does not keep the others out."""
    refusals = []
    for outcome in outcomes:
        if outcome.outcome is Outcome.PASS:
            try:
                _register(session, plan, outcome, reference, runs[outcome.cell.engine_id])
            except RefusedError as error:
                refusals.append(str(error))
    if refusals:
        raise RefusedError("\n".join(refusals))


def _data(
    session: Session,
    stage: Callable[[Workbench, ModelSpec, tuple[Path, ...], str], Remembered[DataArtifact]],
    name: str,
    directory: ModelDirectory,
    files: tuple[Path, ...],
    field: str,
) -> DataArtifact:
    return _stage(session, name, stage, lambda found: f"{found.samples:,} samples", directory.spec, files, field)


def _describe_export(exported: ExportedModel) -> str:
    worst = max(exported.checks.values(), default=0.0)
    return f"ONNX opset {exported.opset}, within {worst:.1e} of PyTorch at {len(exported.checks)} shapes"


def _convert_precisions(
    session: Session, plan: ConversionPlan, exported: ExportedModel
) -> dict[Precision, TypedModel | str]:
    """A typed model for each precision, or the reason why there is none."""
    directory = plan.directory
    typed: dict[Precision, TypedModel | str] = {}
    for precision in plan.precisions:
        calibration = None
        if precision is Precision.INT8:
            files = directory.calibration
            calibration = _data(session, ingest_task, "calibration data", directory, files, "calibration.set")
        name = f"convert {precision.value}"
        try:
            typed[precision] = _stage(
                session, name, convert_task, _describe_recipe, exported, precision, directory.spec, calibration
            )
        except StageError as error:
            typed[precision] = str(error)
    return typed


def _describe_recipe(typed: TypedModel) -> str:
    return typed.recipe["converter"]


@flow(name="make-engine", flow_run_name="{cell.engine_id}", persist_result=False)
def make_engine(
    model_directory: str, cell: Cell, typed: TypedModel, data: DataArtifact, reference: ReferenceArtifact
) -> EngineOutcome:
    """Build, compare and time one engine on its target, and judge it.

    An engine that cannot be built or run is a `fail` with the reason.
    """
    session = current_session()
    directory = read_model_directory(Path(model_directory))
    spec, precision = directory.spec, cell.precision
    made = EngineOutcome(cell=cell, outcome=Outcome.FAIL, typed=typed, policy=directory.policy(precision))
    try:
        engine = _stage(session, f"build {precision.value}", build_task, _describe_build, spec, typed, cell)
        made = made.model_copy(update={"engine": engine})
        compared = _stage(
            session,
            f"compare {precision.value}",
            compare_task,
            lambda found: f"{found.comparison.samples:,} samples",
            spec,
            engine,
            cell,
            data,
            reference,
        )
        made = made.model_copy(update={"compared": compared})
        benchmark = _stage(
            session, f"benchmark {precision.value}", benchmark_task, _describe_benchmark, directory, engine, cell, data
        )
    except StageError as error:
        return made.model_copy(update={"reason": str(error)})
    verdict = decide(directory.policy(precision), compared.comparison)
    return made.model_copy(update={"benchmark": benchmark, "verdict": verdict, "outcome": verdict.outcome})


def _describe_build(built: BuiltEngine) -> str:
    return f"{built.backend.name} {built.backend.version}, {built.plan.size_bytes / 1e6:.1f} MB"


def _describe_benchmark(timed: Benchmark) -> str:
    return f"p50 {timed.headline.p50_ms:.2f} ms at batch {timed.headline_batch}"


def _track(
    session: Session,
    plan: ConversionPlan,
    exported: ExportedModel,
    data: DataArtifact,
    reference: ReferenceArtifact,
    outcomes: list[EngineOutcome],
) -> dict[str, str]:
    conversion = describe_conversion(plan.directory, plan.version, plan.source_commit, data, exported)
    return session.reporter.step(
        "track",
        lambda progress: track_task(session.bench(progress), session.tracker, conversion, outcomes, data, reference),
        lambda runs: f"MLflow experiment {conversion.model}, {len(runs)} engine runs",
    )


def _register(
    session: Session, plan: ConversionPlan, outcome: EngineOutcome, reference: ReferenceArtifact, run: str
) -> None:
    session.reporter.step(
        f"register {outcome.cell.precision.value}",
        lambda progress: publish_task(
            session.bench(progress),
            session.registry,
            plan.directory.spec,
            outcome,
            reference,
            source_commit=plan.source_commit,
            mlflow_run=run,
        ),
        lambda new: "registered as candidate" if new else "registered before",
    )
