"""Which engine of a version is the best: the fastest that passed, or the most accurate of those too close to tell.

Engines are timed minutes apart, and a machine has moods, so their latencies cannot be compared. What can be is how
much faster each is than the PyTorch reference that it took turns with: those speed-ups have bounds, and where the
bounds of two overlap, nothing says which is the faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from tasks.specs import Precision
from tasks.timings import PytorchForm
from validation.metrics import METRICS, Bound
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.records import EngineManifest
    from validation.verdict import RuleResult

    Place = tuple[str, str, str | None]

FINEST_FIRST = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.FP8, Precision.INT8)


@dataclass(frozen=True)
class Choice:
    """An engine, and why it was chosen of those that passed: a sentence without its full stop."""

    manifest: EngineManifest
    reason: str


def choose_passing(manifests: Iterable[EngineManifest]) -> Choice | None:
    """The engine with the largest speed-up over the PyTorch reference of those that passed; None where none did.

    Of those whose bounds overlap with the fastest one's it is the most accurate. Where one has no measured speed-up,
    it is the one with the smallest median latency, and the reason says so.
    """
    passing = [manifest for manifest in manifests if manifest.verdict.outcome is Outcome.PASS]
    if not passing:
        return None
    if len(passing) == 1:
        return Choice(passing[0], "the only engine that passed")
    speedups = [_speedup(manifest) for manifest in passing]
    measured = [each for each in speedups if each is not None]
    if len(measured) < len(passing):
        return _by_latency(passing)
    return _by_speedup(passing, measured)


@dataclass(frozen=True)
class _Speedup:
    value: float
    low: float
    high: float


def _speedup(manifest: EngineManifest) -> _Speedup | None:
    benchmark = manifest.benchmark
    value = benchmark.headline_speedup
    bounds = benchmark.speedup_interval.get(PytorchForm.EAGER_FP32, {}).get(benchmark.headline_batch)
    return None if value is None or bounds is None else _Speedup(value, *bounds)


def _by_latency(passing: Sequence[EngineManifest]) -> Choice:
    best = min(passing, key=lambda one: (one.benchmark.headline.p50_ms, one.plan.size_bytes))
    return Choice(
        best,
        f"the smallest median latency of {len(passing)} that passed, which were not timed in turns: not every one has"
        " a speed-up over PyTorch",
    )


def _by_speedup(passing: Sequence[EngineManifest], speedups: Sequence[_Speedup]) -> Choice:
    ranked = sorted(zip(passing, speedups, strict=True), key=lambda one: (-one[1].value, one[0].plan.size_bytes))
    fastest, fastest_speedup = ranked[0]
    close = [one for one in ranked if one[1].high >= fastest_speedup.low]
    told = ", ".join(_told(*one) for one in close)
    if len(close) == 1:
        return Choice(fastest, f"the fastest of {len(passing)} that passed: {told}, apart from the others")
    used = _used_shares([manifest for manifest, _ in close])
    best = min(range(len(close)), key=lambda at: (used[at], FINEST_FIRST.index(close[at][0].cell.precision), at))
    shares = ", ".join(
        f"{_label(manifest)} {100 * share:.2g} %" for (manifest, _), share in zip(close, used, strict=True)
    )
    return Choice(
        close[best][0],
        f"the most accurate of those whose speed is not decided between {told}; of what their limits allow they use,"
        f" on average, {shares}",
    )


def _told(manifest: EngineManifest, speedup: _Speedup) -> str:
    return f"{_label(manifest)} ({speedup.value:.3g}x, {speedup.low:.3g} to {speedup.high:.3g})"


def _label(manifest: EngineManifest) -> str:
    return f"{manifest.cell.place} {manifest.cell.precision.value}"


def _used_shares(manifests: Sequence[EngineManifest]) -> list[float]:
    """The share of what limits allow that each engine may lose, on average over the rules that all have.

    Precisions have policies of their own: by its own limits INT8 would look as good as FP16 with half of the error. So
    each rule is taken at the strictest of their limits. The worst rule alone would not do: where samples are few, that
    is one whose bounds are wide for every engine alike.
    """
    losses = [_losses(manifest) for manifest in manifests]
    shared = set.intersection(*(set(each) for each in losses))
    strictest = {place: min(each[place][1] for each in losses) for place in shared}
    return [
        fmean([each[place][0] / strictest[place] for place in shared if strictest[place] > 0] or [0.0])
        for each in losses
    ]


def _losses(manifest: EngineManifest) -> dict[Place, tuple[float, float]]:
    """By rule: how far the judged bound is from the metric's ideal, and how far the limit is; the worst of each."""
    found: dict[Place, tuple[float, float]] = {}
    for result in manifest.verdict.rules:
        allowed, loss = _loss(result)
        place = (result.rule.output, result.rule.metric, result.rule.by)
        if loss is not None and loss >= found.get(place, (0.0, 0.0))[0]:
            found[place] = (loss, allowed)
    return found


def _loss(result: RuleResult) -> tuple[float, float | None]:
    metric = METRICS[result.rule.metric]
    allowed = abs(result.rule.limit - metric.ideal)
    if result.margin is None or metric.bound is Bound.PVALUE:  # a p-value says how sure, not how far
        return allowed, None
    return allowed, (1 - result.margin) * allowed
