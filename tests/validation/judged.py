"""Judges made-up outputs and prints the verdict and the measurements as JSON; a child process of a test."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from validation.comparison import Comparison
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import default_policy
from validation.rules import Policy, Rule
from validation.verdict import decide

N = 1_200


def main() -> None:
    """Print one line."""
    rng = np.random.default_rng(0)
    reference = {
        "score": rng.random(N).astype(np.float32),
        "grade": rng.normal(size=(N, 8)).astype(np.float32),
        "embedding": rng.normal(size=(N, 64)).astype(np.float32),
        "map": rng.random((N, 4, 64)).astype(np.float32),
    }
    candidate = {name: side + rng.normal(0, 0.01, side.shape).astype(np.float32) for name, side in reference.items()}
    kinds = {"score": "score", "grade": "logits", "embedding": "embedding", "map": "tensor"}
    outputs = {name: OutputSpec(kind=OutputKind(kind)) for name, kind in kinds.items()}
    rules = (*default_policy(outputs, "int8").rules, Rule(output="score", metric="ks_pvalue", min=0.05))
    policy = Policy(rules=rules, resamples=400)
    comparison = Comparison(outputs, by={"score": {"level": METRICS}}, plan=None)
    comparison.update(reference, candidate, slices={"level": np.arange(N) % 3}, label=np.arange(N) % 8)
    result = comparison.result()
    print(json.dumps([asdict(decide(policy, result)), asdict(result)], sort_keys=True))  # noqa: T201 - its one job


if __name__ == "__main__":
    main()
