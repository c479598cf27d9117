"""How long the gate takes and how much memory, each case in a child of its own on one core.

    python tests/benchmarks/gate/size.py CASE [SHARDS]

prints the seconds and the peak memory above start, in bytes, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.bootstrap import Bootstrap
from validation.comparison import Comparison
from validation.outputs import OutputKind, OutputSpec
from validation.policy import default_policy
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = 1_000_000
SHARDS = 100
SHARD_BYTES = 50_000_000
MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """Wall seconds, those of them that made data, and the peak of resident memory above that at the start, bytes."""

    seconds: float
    making: float
    peak: int


def measure(case: str, shards: int = SHARDS) -> Size:
    """Run a case in a child on one core."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = ["taskset", "-c", "0", sys.executable, __file__, case, str(shards)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Size(**json.loads(done.stdout.splitlines()[-1]))


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) << 10


def _pairs(_shards: int, *, sliced: bool) -> tuple[float, float]:
    """A million pairs of scores under the default policy for FP16."""
    outputs = {"score": OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0)}
    policy = default_policy(outputs, "fp16", ["level"] if sliced else [])
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    reference = generator.random(PAIRS, dtype=np.float32)
    candidate = reference + 0.003 * generator.standard_normal(PAIRS, dtype=np.float32)
    slices = {"level": generator.integers(0, 6, PAIRS)} if sliced else {}
    making = time.perf_counter() - started
    plan = Bootstrap(confidence=policy.confidence, resamples=policy.resamples)
    comparison = Comparison(outputs, by=policy.slices, plan=plan)
    comparison.update({"score": reference}, {"score": candidate}, slices=slices)
    verdict = decide(policy, comparison.result())
    assert verdict.rules
    return time.perf_counter() - started, making


def _shards(shards: int, *, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Shards of 50 MB a side, made on the fly."""
    comparison = Comparison({"output": OutputSpec(kind=OutputKind(kind))})
    n = SHARD_BYTES // 4 // int(np.prod(shape, dtype=int))
    started, making = time.perf_counter(), 0.0
    for number in range(shards):
        begun = time.perf_counter()
        generator = np.random.default_rng(number)
        reference = generator.standard_normal((n, *shape), dtype=np.float32)
        candidate = generator.standard_normal((n, *shape), dtype=np.float32)
        candidate *= np.float32(0.01)
        candidate += reference
        making += time.perf_counter() - begun
        comparison.update({"output": reference}, {"output": candidate})
    comparison.result()
    return time.perf_counter() - started, making


CASES: dict[str, Callable[[int], tuple[float, float]]] = {
    "pairs": lambda shards: _pairs(shards, sliced=False),
    "sliced": lambda shards: _pairs(shards, sliced=True),
    "logits": lambda shards: _shards(shards, kind="logits", shape=(1000,)),
    "tensors": lambda shards: _shards(shards, kind="tensor", shape=(80, 300)),
    "scores": lambda shards: _shards(shards, kind="score", shape=()),
}


def _child(case: str, shards: int) -> dict[str, Any]:
    start = _memory("VmRSS")
    seconds, making = CASES[case](shards)
    return {"seconds": seconds, "making": making, "peak": _memory("VmHWM") - start}


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]))))
