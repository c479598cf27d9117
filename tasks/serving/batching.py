"""How a server batches an engine's requests, by what its benchmark measured and model.yaml's `serving` says."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from tasks.serving.engine_io import batch_of

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.timings import Benchmark, Latency

# A larger batch that gives less than so much more throughput makes everyone wait for nothing.
GROWTH = 1.05
# What a request may wait for company, as a share of the median at the preferred batch.
DELAY_SHARE = 0.1
# A request waits for so many batches at most, of p99.
TIMEOUT_BATCHES = 10
# Below it, the scheduler of a busy host would time requests out that the engine has time for.
LEAST_TIMEOUT_US = 1_000_000
_MS, _S = 1000, 1_000_000


@dataclass(frozen=True)
class Batching:
    """Triton's dynamic batching: sizes in samples, the queue in requests, times in microseconds.

    `why` says in words where the defaults come from.
    """

    preferred: tuple[int, ...]
    delay_us: int
    queue_size: int
    timeout_us: int
    why: str


def best_batch(benchmark: Benchmark) -> Latency:
    """The latency at the batch size at which throughput stops to grow."""
    rising = sorted(benchmark.engine.latencies, key=lambda latency: latency.batch)
    best = rising[0]
    for latency in rising[1:]:
        if latency.throughput_per_s < GROWTH * best.throughput_per_s:
            break
        best = latency
    return best


def choose_batching(manifest: EngineManifest) -> Batching | None:
    """How requests share batches; None where they must not: a batch is one sample, or samples share an input."""
    serving, most = manifest.serving, manifest.dims[batch_of(manifest)].max
    if most == 1 or any(spec.is_shared for spec in manifest.inputs.values()):
        return None
    best = best_batch(manifest.benchmark)
    preferred = serving.preferred_batch_sizes or _preferred(manifest, min(best.batch, most))
    delay = int(DELAY_SHARE * best.p50_ms * _MS)
    timeout = serving.queue_timeout_us or max(int(TIMEOUT_BATCHES * best.p99_ms * _MS), LEAST_TIMEOUT_US)
    # As many may wait as are answered before they time out: those beyond are told at once, not after a wait in vain.
    answered = ceil(best.throughput_per_s * timeout / _S)
    return Batching(
        preferred=tuple(sorted(set(preferred))),
        delay_us=delay if serving.max_queue_delay_us is None else serving.max_queue_delay_us,
        queue_size=serving.max_queue_size or answered,
        timeout_us=timeout,
        why=(
            f"throughput stops to grow at a batch of {best.batch} ({best.throughput_per_s:.4g} samples a second,"
            f" p99 {best.p99_ms:.3g} ms)"
        ),
    )


def call_limit_ms(manifest: EngineManifest) -> float:
    """How long a call of an engine may take before its answer is given up: as long as a request may wait for one."""
    slow = TIMEOUT_BATCHES * best_batch(manifest.benchmark).p99_ms
    return (manifest.serving.queue_timeout_us or max(slow * _MS, LEAST_TIMEOUT_US)) / _MS


def _preferred(manifest: EngineManifest, best: int) -> tuple[int, ...]:
    """The plans' batch sizes up to the best one, or that one."""
    buckets = manifest.dims[batch_of(manifest)].buckets or ()
    return tuple(size for size in buckets if 1 < size <= best) or (best,)
