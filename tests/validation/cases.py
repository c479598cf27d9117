"""What several tests of the gate need: one output measured in one call, and rules judged on it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

FEW = Bootstrap(resamples=200)
"""Enough where the interval is not the point."""


AXES = {OutputKind.SEGMENTATION: -1, OutputKind.CTC: 2}
"""Where the classes are that `pair_of` makes."""


def pair_of(kind: OutputKind, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Two sides of one of the kinds with a module of its own, that differ somewhat, and labels."""
    rng = np.random.default_rng(seed)
    if kind is OutputKind.LABELS:
        r = rng.integers(0, 7, (n, 3))
        return r, np.where(rng.random(r.shape) < 0.1, (r + 1) % 7, r), rng.integers(0, 7, (n, 3))
    if kind is OutputKind.BOXES:
        low = rng.random((n, 5, 2)) * 10
        rest = [low, low + 1 + 4 * rng.random((n, 5, 2)), rng.random((n, 5, 1)), rng.integers(0, 2, (n, 5, 1))]
        r = np.concatenate(rest, axis=2)
        label = r[:, :4, [0, 1, 2, 3, 5]].copy()
        label[:, 3, 4] = -1
        noise = np.concatenate([0.5 * rng.normal(size=(n, 5, 4)), np.zeros((n, 5, 2))], axis=2)
        return r, r + noise, label
    shape, label_shape, most = {
        OutputKind.MULTILABEL: ((7,), (7,), 2),
        OutputKind.SEGMENTATION: ((3, 4, 5), (3, 4), 5),
        OutputKind.CTC: ((8, 5), (4,), 5),
        OutputKind.LANGUAGE: ((3, 9), (3,), 9),
    }[kind]
    r = rng.normal(0, 2, (n, *shape))
    return r, r + rng.normal(0, 0.5, r.shape), rng.integers(0, most, (n, *label_shape))


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
    **keys: object,
) -> ComparisonResult:
    """Compare one output called `out`, in shards that end before the samples `cuts`; `keys` are more of its spec's."""
    spec = OutputSpec(kind=kind, mask=None if mask is None else "mask", **({"axis": AXES.get(kind)} | keys))
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
    **keys: object,
) -> dict[str, Measurement]:
    """Every metric of one output, by name."""
    return whole(run(reference, candidate, kind, label=label, mask=mask, plan=plan, **keys))


def values(measurements: dict[str, Measurement]) -> dict[str, float | None]:
    """The values alone."""
    return {name: m.value for name, m in measurements.items()}


def policy_of(*rules: Rule, **others: object) -> Policy:
    """A policy on `out`'s measurements as `run` makes them."""
    return replace(Policy(rules=rules, resamples=FEW.resamples), **others)


def rule(metric: str, **limits: object) -> Rule:
    """A rule on the output `out`."""
    return Rule(output="out", metric=metric, **limits)
