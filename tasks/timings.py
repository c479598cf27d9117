"""Frozen models of how fast an engine is, and the module in PyTorch beside it."""

from __future__ import annotations

from enum import Enum

from pydantic import Field, ValidationInfo, field_validator

from tasks.artifact import Artifact
from tasks.declared import Frozen


class Latency(Frozen):
    """Wall time of one call at a batch size, in milliseconds, and the samples a second that its median allows.

    `p50_interval` bounds the median, as `Benchmark.speedup_interval` does a speed-up.
    """

    batch: int
    p50_ms: float
    p50_interval: tuple[float, float]
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    calls: int


class PytorchForm(str, Enum):
    """How the module is run in PyTorch to be timed beside an engine. `EAGER_FP32` is the reference."""

    EAGER_FP32 = "eager_fp32"
    EAGER_FP16 = "eager_fp16"
    COMPILE_FP16 = "compile_fp16"


class Timing(Frozen):
    """Latencies of one side of a benchmark by batch size, and the device memory it took (None: not known), in bytes."""

    latencies: tuple[Latency, ...]
    device_memory_bytes: int | None = None


class Benchmark(Frozen):
    """Latencies of an engine and, where torch is present, of the module in PyTorch, measured in turns.

    `speedup` maps a form of PyTorch and a batch size to its p50 over the engine's, and `speedup_interval` to one-sided
    bounds of that, each at 98 % confidence. `missing` says why a form of PyTorch was not timed. `layers` holds
    `layers.json`, the engine's layers with the time of each.
    """

    engine: Timing
    pytorch: dict[PytorchForm, Timing]
    speedup: dict[PytorchForm, dict[int, float]]
    speedup_interval: dict[PytorchForm, dict[int, tuple[float, float]]]
    missing: dict[PytorchForm, str] = Field(default_factory=dict)
    engine_size_bytes: int
    headline_batch: int
    layers: Artifact | None = None

    @field_validator("headline_batch")
    @classmethod
    def _was_timed(cls, value: int, info: ValidationInfo) -> int:
        timed = info.data.get("engine")
        if timed is not None and value not in {latency.batch for latency in timed.latencies}:
            raise ValueError(f"batch {value} was not timed")
        return value

    @property
    def headline(self) -> Latency:
        """The engine's latency at the batch size that the model's `opt` names."""
        return self.at(self.headline_batch)

    def at(self, batch: int) -> Latency:
        """The engine's latency at a batch size."""
        return next(latency for latency in self.engine.latencies if latency.batch == batch)

    @property
    def headline_speedup(self) -> float | None:
        """The reference's p50 over the engine's at the batch size that `opt` names; None where it was not timed."""
        return self.speedup.get(PytorchForm.EAGER_FP32, {}).get(self.headline_batch)


class RaceAt(Frozen):
    """Two engines in turns at one batch size: `speedup` is the old one's p50 over the new one's, within a round.

    `low` and `high` bound it, each at 98 % confidence.
    """

    before: Latency
    after: Latency
    speedup: float
    low: float
    high: float


class EngineRace(Frozen):
    """An engine and the one that it would replace, timed in turns; `headline_batch` is the model's `opt`."""

    batches: tuple[RaceAt, ...]
    headline_batch: int

    @property
    def headline(self) -> RaceAt:
        """How it went at the model's `opt`."""
        return next(each for each in self.batches if each.after.batch == self.headline_batch)
