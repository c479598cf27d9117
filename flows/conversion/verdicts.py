"""The last word on the engines of one conversion: judged again, together.

While an engine is made, here or on a runner, its verdict is provisional: what INT8 gains over FP16 takes the FP16
engine of the same target, and Holm's correction takes the p-values of every engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.specs import Precision
from tasks.timings import Benchmark, PytorchForm
from validation.verdict import Speedup, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records import EngineOutcome

LARGEST_CONFIDENCE = 0.96
"""Bounds of a benchmark hold at 98 % each (`tasks.stages.benchmark.BOUND_RANK`), so those of a ratio of two at 96 %."""


def judge_together(outcomes: Sequence[EngineOutcome]) -> list[EngineOutcome]:
    """The same outcomes with their last verdicts; those without a verdict stay as they are."""
    return [_judge(outcome, outcomes) for outcome in outcomes]


def _judge(outcome: EngineOutcome, outcomes: Sequence[EngineOutcome]) -> EngineOutcome:
    if outcome.verdict is None or outcome.policy is None or outcome.compared is None:
        return outcome
    pvalues = [
        pvalue
        for other in outcomes
        if other.cell != outcome.cell and other.verdict is not None
        for pvalue in other.verdict.pvalues
    ]
    verdict = decide(
        outcome.policy,
        outcome.compared.comparison,
        precision=outcome.cell.precision.value,
        speedups=_speedups(outcome, outcomes, outcome.policy.confidence),
        other_pvalues=pvalues,
    )
    return outcome.model_copy(update={"verdict": verdict, "outcome": verdict.outcome})


class _Bounded(NamedTuple):
    value: float
    low: float
    high: float

    def over(self, other: _Bounded) -> _Bounded:
        """The ratio, with bounds that hold whatever the two have in common."""
        return _Bounded(self.value / other.value, self.low / other.high, self.high / other.low)


def _speedups(outcome: EngineOutcome, outcomes: Sequence[EngineOutcome], confidence: float) -> dict[str, Speedup]:
    fp16 = (Precision.FP16, outcome.cell.target)
    half = next((other for other in outcomes if (other.cell.precision, other.cell.target) == fp16), None)
    found = {"speedup_vs_reference": _over_reference(outcome), "speedup_vs_fp16": _over_half(outcome, half)}
    if confidence <= LARGEST_CONFIDENCE:
        return found
    why = f"its bounds hold at {LARGEST_CONFIDENCE:g}, and the policy asks for {confidence:g}"
    return dict.fromkeys(found, Speedup(value=None, note=why))


def _over_reference(outcome: EngineOutcome) -> Speedup:
    benchmark = outcome.benchmark
    if benchmark is None:
        return Speedup(value=None, note="the engine was not timed")
    found = _beside_pytorch(benchmark)
    if found is None:
        missing = benchmark.missing.get(PytorchForm.EAGER_FP32, "there was none beside the engine")
        return Speedup(value=None, note=f"PyTorch was not timed: {missing}")
    return _speedup(found, f"at batch {benchmark.headline_batch}")


def _over_half(outcome: EngineOutcome, half: EngineOutcome | None) -> Speedup:
    if half is None:
        return Speedup(value=None, note="this conversion makes no fp16 engine of the target")
    if outcome.benchmark is None or half.benchmark is None:
        late = outcome if outcome.benchmark is None else half
        return Speedup(value=None, note=f"the {late.cell.precision.value} engine was not timed")
    if half.cell == outcome.cell:
        return Speedup(value=1.0, low=1.0, high=1.0, note="it is that engine")
    own, other = _beside_pytorch(outcome.benchmark), _beside_pytorch(half.benchmark)
    if own is not None and other is not None:
        # Both took turns with PyTorch, so that what the machine does between the two benchmarks cancels.
        return _speedup(own.over(other), f"both against PyTorch, at batch {outcome.benchmark.headline_batch}")
    ratio = _latency(half.benchmark).over(_latency(outcome.benchmark))
    return _speedup(ratio, f"one timed after the other, at batch {outcome.benchmark.headline_batch}")


def _beside_pytorch(benchmark: Benchmark) -> _Bounded | None:
    value = benchmark.headline_speedup
    if value is None:
        return None
    return _Bounded(value, *benchmark.speedup_interval[PytorchForm.EAGER_FP32][benchmark.headline_batch])


def _latency(benchmark: Benchmark) -> _Bounded:
    return _Bounded(benchmark.headline.p50_ms, *benchmark.headline.p50_interval)


def _speedup(found: _Bounded, note: str) -> Speedup:
    return Speedup(value=found.value, low=found.low, high=found.high, note=note)
