"""A small model with a score and three traits, its engines' outcomes, and the shards they were measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.artifact import Artifact, ArtifactFile
from tasks.declared import Dim
from tasks.records import BackendIdentity, BuiltEngine, Cell, ComparedEngine, EngineOutcome, EngineProfile, TypedModel
from tasks.specs import Precision
from tasks.timings import Benchmark, Latency, PytorchForm, Timing
from tasks.tracking.interface import ConversionRecord, EngineRecord
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult
from validation.outputs import OutputKind, OutputSpec
from validation.policy import PerformanceRule, Policy, default_policy
from validation.verdict import Outcome, Speedup, decide

if TYPE_CHECKING:
    from pathlib import Path

    Shard = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
    """What the reference gave, what the candidate gave, and the annotations."""

OUTPUTS = {
    "score": OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0),
    "traits": OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0),
}
VERSION = "0123456789ab"
SHARDS = (900, 600, 600)
LEVELS = 6
"""Values of the slice `level`, each with as many samples: enough to decide a rule by level."""


def _digest(character: str) -> str:
    return f"sha256:{character * 64}"


def _artifact(character: str) -> Artifact:
    file = ArtifactFile(path="engine.onnx", digest=_digest(character), size_bytes=1_234_567)
    return Artifact(digest=_digest(character), files=(file,))


def _latency(batch: int, p50_ms: float) -> Latency:
    return Latency(
        batch=batch,
        p50_ms=p50_ms,
        p50_interval=(0.99 * p50_ms, 1.01 * p50_ms),
        p90_ms=1.1 * p50_ms,
        p99_ms=1.5 * p50_ms,
        throughput_per_s=1000 * batch / p50_ms,
        calls=50,
    )


def _benchmark(p50_ms: float) -> Benchmark:
    speedup = 10.0 / p50_ms
    interval = (0.98 * speedup, 1.02 * speedup)
    return Benchmark(
        engine=Timing(latencies=(_latency(8, p50_ms), _latency(32, 4 * p50_ms))),
        pytorch={PytorchForm.EAGER_FP32: Timing(latencies=(_latency(8, 10.0), _latency(32, 40.0)))},
        speedup={PytorchForm.EAGER_FP32: {8: speedup, 32: speedup}},
        speedup_interval={PytorchForm.EAGER_FP32: {8: interval, 32: interval}},
        engine_size_bytes=1_234_567,
        headline_batch=8,
    )


def _cell(precision: str) -> Cell:
    return Cell(model="essay-scorer", target="cpu", precision=Precision(precision), version=VERSION)


def _policy(precision: str) -> Policy:
    """The default policy, with few resamples to be quick, a rule of performance, and an r that 2,100 samples show."""
    speed = PerformanceRule(metric="speedup_vs_reference", min=1.0)
    policy = default_policy(OUTPUTS, precision, ("level",))
    rules = tuple(replace(rule, min=0.98) if rule.metric == "pearson" else rule for rule in policy.rules)
    return replace(policy, rules=rules, resamples=400, performance=(speed,))


@cache
def _compare(precision: str, noise: float) -> tuple[ComparisonResult, list[Shard]]:
    """The comparison of a candidate whose errors are normal with this standard deviation, and what was compared."""
    policy, rng = _policy(precision), np.random.default_rng(7)
    plan = Bootstrap(confidence=policy.confidence, resamples=policy.resamples)
    comparison, shards = Comparison(OUTPUTS, by=policy.slices, plan=plan), []
    for n in SHARDS:
        level = np.arange(n) % LEVELS + 1
        r = {"score": rng.beta(2, 1, n), "traits": rng.beta(2, 1, (n, 3))}
        c = {name: values + rng.normal(0, noise, values.shape) for name, values in r.items()}
        comparison.update(r, c, slices={"level": level}, label=level / LEVELS)
        shards.append((r, c, {"label": level / LEVELS, "slice.level": level}))
    return comparison.result(), shards


def _outcome(cell: Cell, compared: ComparedEngine, p50_ms: float) -> EngineOutcome:
    policy, speedup = _policy(cell.precision.value), 10.0 / p50_ms
    speedups = {"speedup_vs_reference": Speedup(value=speedup, low=0.98 * speedup, high=1.02 * speedup)}
    verdict = decide(policy, compared.comparison, precision=cell.precision.value, speedups=speedups)
    return EngineOutcome(
        cell=cell,
        outcome=verdict.outcome,
        typed=TypedModel(
            onnx=_artifact("a"), precision=cell.precision, recipe={"converter": "autocast", "opset": "20"}
        ),
        engine=BuiltEngine(
            plan=_artifact("b"),
            backend=BackendIdentity(name="onnxruntime", version="1.23.0", device="cpu", driver="none"),
            options={"threads": "1", "cache": "/home/ann/secret-folder/cache.bin"},
            profiles=(EngineProfile(file="engine.onnx", dims={}),),
            cache_key=_digest("c"),
        ),
        compared=compared,
        verdict=verdict,
        policy=policy,
        benchmark=_benchmark(p50_ms),
    )


@dataclass(frozen=True)
class Case:
    """Makes the records of one model whose shards lie below `folder`."""

    folder: Path

    def conversion(self, **changes: Any) -> ConversionRecord:
        fields: dict[str, Any] = {
            "model": "essay-scorer",
            "version": VERSION,
            "source_commit": "c0ffee" + "0" * 34,
            "parameters": {"calibration.method": "max", "model": "/home/ann/models/essay_scorer"},
            "validation_digest": _digest("d"),
            "validation_samples": sum(SHARDS),
            "outputs": OUTPUTS,
            "dims": {"batch": Dim(min=1, opt=8, max=32)},
        }
        return ConversionRecord(**(fields | changes))

    def engine(self, precision: str, *, noise: float = 0.002, p50_ms: float = 4.0) -> EngineRecord:
        """An engine whose error is normal with this standard deviation."""
        reference, annotations = self._make("reference"), self._make("annotations")
        candidate = self._make(f"candidate-{precision}-{noise}")
        comparison, shards = _compare(precision, noise)
        for index, arrays in enumerate(shards):
            for folder, part in zip((reference, candidate, annotations), arrays, strict=True):
                np.savez(folder / f"{index:05d}.npz", **part)
        compared = ComparedEngine(
            plan=_artifact("b").digest,
            outputs=_artifact("e"),
            comparison=comparison,
            peak_memory_bytes=1 << 20,
        )
        return EngineRecord(
            outcome=_outcome(_cell(precision), compared, p50_ms),
            reference=reference,
            candidate=candidate,
            annotations=annotations,
        )

    def failed_engine(self, precision: str, reason: str) -> EngineRecord:
        """A cell that has no engine."""
        outcome = EngineOutcome(cell=_cell(precision), outcome=Outcome.FAIL, reason=reason)
        return EngineRecord(
            outcome=outcome,
            reference=self._make("reference"),
            candidate=None,
            annotations=self._make("annotations"),
        )

    def _make(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("shards"))
