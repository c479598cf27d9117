"""What several tests of the gate need: one output measured in one call, and rules judged on it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

FEW = Bootstrap(resamples=200)
"""Enough where the interval is not the point."""


def run(
    reference: np.ndarray,
    candidate: np.ndarray,
    kind: OutputKind = OutputKind.SCORE,
    *,
    label: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    slices: dict[str, np.ndarray] | None = None,
    by: Iterable[str] = (),
    cuts: Iterable[int] = (),
    plan: Bootstrap = FEW,
) -> ComparisonResult:
    """Compare one output called `out`, in shards that end before the samples `cuts`."""
    spec = OutputSpec(kind=kind, mask=None if mask is None else "mask")
    comparison = Comparison({"out": spec}, by={"out": dict.fromkeys(by, METRICS)}, plan=plan)
    ends = [0, *sorted(cuts), len(reference)]
    for start, end in itertools.pairwise(ends):
        part = slice(start, end)
        comparison.update(
            {"out": reference[part]},
            {"out": candidate[part]},
            slices={name: values[part] for name, values in (slices or {}).items()},
            label=None if label is None else label[part],
            masks={} if mask is None else {"mask": mask[part]},
        )
    return comparison.result()


def whole(result: ComparisonResult) -> dict[str, Measurement]:
    """The measurements of the output as a whole on all samples, by metric."""
    return {m.metric: m for m in result.measurements if m.column is None and m.slice is None}


def measure(
    reference: np.ndarray,
    candidate: np.ndarray,
    kind: OutputKind = OutputKind.SCORE,
    *,
    label: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    plan: Bootstrap = FEW,
) -> dict[str, Measurement]:
    """Every metric of one output, by name."""
    return whole(run(reference, candidate, kind, label=label, mask=mask, plan=plan))


def values(measurements: dict[str, Measurement]) -> dict[str, float | None]:
    """The values alone."""
    return {name: m.value for name, m in measurements.items()}


def policy_of(*rules: Rule, **others: object) -> Policy:
    """A policy on `out`'s measurements as `run` makes them."""
    return replace(Policy(rules=rules, resamples=FEW.resamples), **others)


def rule(metric: str, **limits: object) -> Rule:
    """A rule on the output `out`."""
    return Rule(output="out", metric=metric, **limits)
