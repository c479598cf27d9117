"""Retries INT8 engines that fail the gate, with as few of the worst layers in FP16 as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.console import label_of
from flows.conversion.verdicts import judge_together
from flows.stage import run_stage
from tasks.errors import StageError
from tasks.quantization.layer_search import PrecisionSearch
from tasks.quantization.sensitivity import Sensitivity, measure_sensitivity
from tasks.records import Cell, DataArtifact, EngineJob, EngineOutcome, EngineTry, ExportedModel
from tasks.specs import CalibrationMethod, ModelSpec, Precision
from tasks.stages.convert import convert_precision
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flows.conversion.checked_calibration import Calibration
    from flows.session import Session

    Make = Callable[[list[EngineJob]], list[EngineOutcome]]


@dataclass(frozen=True)
class Retrying:
    """What retries need beside the engines: the model, its data, and how engines are made."""

    session: Session
    spec: ModelSpec
    exported: ExportedModel
    calibration: Calibration
    data: DataArtifact
    make: Make


def retry_failed(
    retrying: Retrying, jobs: Sequence[EngineJob], outcomes: Sequence[EngineOutcome]
) -> list[EngineOutcome]:
    """The outcomes, with the best try in place of each INT8 engine whose outputs fail the gate.

    Where none passes and is faster than FP16, the engine that failed stays, with its tries. Verdicts are provisional.
    """
    found = {outcome.cell: outcome for outcome in outcomes}
    for job in jobs:
        if _wants_retry(found[job.cell], list(found.values())):
            found[job.cell] = _search(retrying, job, found)
    return [found[outcome.cell] for outcome in outcomes]


def _wants_retry(outcome: EngineOutcome, others: Sequence[EngineOutcome]) -> bool:
    verdict = _judged(outcome, others).verdict
    is_int8 = outcome.cell.precision is Precision.INT8
    return is_int8 and verdict is not None and any(rule.outcome is Outcome.FAIL for rule in verdict.rules)


def _judged(outcome: EngineOutcome, others: Sequence[EngineOutcome]) -> EngineOutcome:
    around = [other for other in others if other.cell != outcome.cell]
    return judge_together([outcome, *around])[0]


def _search(retrying: Retrying, job: EngineJob, found: dict[Cell, EngineOutcome]) -> EngineOutcome:
    try:
        ranked = _rank(retrying, job)
    except StageError:  # its step told why; one engine that cannot be mended keeps no other from being registered
        return found[job.cell]
    search, tries, best = PrecisionSearch(ranked.ranked), [], found[job.cell]
    tries.append(_described(_judged(best, list(found.values())), (), len(ranked.layers)))
    while (excluded := search.next()) is not None:
        made = _judged(_try(retrying, job, excluded), list(found.values()))
        tries.append(_described(made, excluded, len(ranked.layers)))
        search.tell(excluded, made.outcome is Outcome.PASS, tries[-1].is_faster)
        if search.best == excluded:
            best = made
    retrying.session.reporter.say(f"! {label_of(job.cell)}: {_told(search.best, tries)}")
    return best.model_copy(update={"tries": tuple(tries)})


def _told(best: tuple[str, ...] | None, tries: Sequence[EngineTry]) -> str:
    if best is not None:
        return f"{len(best)} of {tries[0].layers} layers are left out of INT8: {', '.join(best)}"
    passing = [attempt for attempt in tries if attempt.outcome is Outcome.PASS]
    if not passing:
        return f"no engine with layers left out of INT8 passes ({len(tries) - 1} tried); the one that failed stays"
    fewest = min(passing, key=lambda attempt: len(attempt.excluded))
    return (
        f"without {len(fewest.excluded)} of {fewest.layers} layers it passes, but at {fewest.speedup_vs_fp16:.2f}x the"
        " speed of FP16, so that nothing is gained; the one that failed stays"
    )


def _rank(retrying: Retrying, job: EngineJob) -> Sensitivity:
    return run_stage(
        retrying.session,
        f"sensitivity {label_of(job.cell)}",
        measure_sensitivity,
        lambda sensitivity: f"{len(sensitivity.layers)} layers, worst {sensitivity.ranked[0]}",
        retrying.exported,
        retrying.spec,
        retrying.calibration.data,
        retrying.data,
        method=_chosen_method(job),
    )


def _chosen_method(job: EngineJob) -> CalibrationMethod | None:
    """The method that `auto` chose, or the model's own; a try chooses anew, since other layers may want another."""
    method = job.typed.recipe.get("method")
    return None if method is None else CalibrationMethod(method)


def _try(retrying: Retrying, job: EngineJob, excluded: tuple[str, ...]) -> EngineOutcome:
    layers = "1 layer" if len(excluded) == 1 else f"{len(excluded)} layers"
    what = f"convert {label_of(job.cell)} without {layers}"
    try:
        typed = run_stage(
            retrying.session,
            what,
            convert_precision,
            lambda found: found.recipe["converter"],
            retrying.exported,
            Precision.INT8,
            retrying.spec,
            retrying.calibration.data,
            exclude=excluded,
            data=retrying.data,
            half=job.cell.wants_half,
        )
    except StageError as error:
        return EngineOutcome(cell=job.cell, outcome=Outcome.FAIL, policy=job.policy, reason=str(error))
    (made,) = retrying.make([job.model_copy(update={"typed": typed})])
    return made


def _described(outcome: EngineOutcome, excluded: tuple[str, ...], layers: int) -> EngineTry:
    verdict, benchmark = outcome.verdict, outcome.benchmark
    speedup = None if verdict is None or verdict.speedups is None else verdict.speedups["speedup_vs_fp16"].value
    return EngineTry(
        excluded=excluded,
        layers=layers,
        outcome=outcome.outcome,
        sentence=outcome.reason if verdict is None else verdict.worst_rule.sentence,
        metrics={}
        if verdict is None
        else {
            f"{rule.rule.output}.{rule.rule.metric}": rule.value
            for rule in verdict.rules
            if rule.rule.by is None and rule.value is not None
        },
        p50_ms=None if benchmark is None else benchmark.headline.p50_ms,
        speedup_vs_fp16=speedup,
        onnx=None if outcome.typed is None else outcome.typed.onnx.digest,
    )
