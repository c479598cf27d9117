"""What a conversion came to: what `convert --json` prints, a push's child hands back and the journal reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from flows.console import Step
from tasks.declared import Digest, Frozen
from tasks.errors import ExitCode
from tasks.rebuild_records import MiscompiledBuild
from tasks.records import CalibrationRecord, EngineOutcome, EngineTry
from tasks.timings import Benchmark
from validation.verdict import Outcome, PerformanceResult, RuleResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.conversion.conversion_plan import ConversionPlan

SIDES = ("max", "min", "within")


class EngineResult(Frozen):
    """What came of one engine. `reason` says why there is none, where there is none."""

    engine_id: str
    verdict: str
    reason: str = ""
    registered: bool = False


class RuleReport(Frozen):
    """A rule on outputs and how it was judged. Of `max`, `min` and `within` it has the one that is its limit."""

    output: str
    metric: str
    slice: str | None
    group: str | None
    max: float | None = None
    min: float | None = None
    within: float | None = None
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    rows: int | None = None
    needed: int | None
    needed_at_half: int | None = None
    outcome: Outcome
    sentence: str

    @classmethod
    def of(cls, result: RuleResult) -> RuleReport:
        """The report of a judged rule."""
        rule, limit = result.rule, {result.rule.side: result.rule.limit}
        names = ("group", "value", "low", "high", "n", "rows", "needed", "needed_at_half", "outcome", "sentence")
        judged = {name: getattr(result, name) for name in names}
        return cls.model_validate({"output": rule.output, "metric": rule.metric, "slice": rule.by} | limit | judged)

    @model_serializer(mode="wrap")
    def _with_one_side(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name not in SIDES or value is not None}


class EngineReport(EngineResult):
    """An engine with everything that was measured of it, as far as it came."""

    digest: Digest | None = None
    size_bytes: int | None = None
    rules: tuple[RuleReport, ...] = ()
    performance: tuple[PerformanceResult, ...] = ()
    defects: tuple[str, ...] = ()
    benchmark: Benchmark | None = None
    calibration: CalibrationRecord | None = None
    tries: tuple[EngineTry, ...] = ()
    miscompiled: tuple[MiscompiledBuild, ...] = ()

    @classmethod
    def of(cls, outcome: EngineOutcome) -> EngineReport:
        """The report of an engine's last verdict."""
        plan, verdict = (outcome.engine and outcome.engine.plan), outcome.verdict
        return cls(
            engine_id=outcome.cell.engine_id,
            verdict=outcome.outcome.value,
            reason=outcome.reason,
            registered=outcome.outcome is Outcome.PASS,
            digest=plan.digest if plan else None,
            size_bytes=plan.size_bytes if plan else None,
            rules=tuple(map(RuleReport.of, verdict.rules)) if verdict else (),
            performance=verdict.performance if verdict else (),
            defects=verdict.defects if verdict else (),
            benchmark=outcome.benchmark,
            calibration=outcome.calibration,
            tries=outcome.tries,
            miscompiled=outcome.miscompiled,
        )


class FailureReport(Frozen):
    """What a command prints with --json where it ends with an error."""

    error: str
    exit_code: ExitCode


class ConversionReport(Frozen):
    """A conversion that came to verdicts, whatever they are."""

    model: str
    version: str
    source_commit: str | None = None
    steps: tuple[Step, ...] = ()
    engines: tuple[EngineReport, ...]

    @classmethod
    def of(cls, plan: ConversionPlan, steps: Sequence[Step], outcomes: Sequence[EngineOutcome]) -> ConversionReport:
        """The report of what a plan came to."""
        return cls(
            model=plan.directory.spec.name,
            version=plan.version,
            source_commit=plan.source_commit,
            steps=tuple(steps),
            engines=tuple(map(EngineReport.of, outcomes)),
        )

    @property
    def results(self) -> tuple[EngineResult, ...]:
        """What came of each engine, without what was measured."""
        fields = set(EngineResult.model_fields)
        return tuple(EngineResult.model_validate(engine.model_dump(include=fields)) for engine in self.engines)
