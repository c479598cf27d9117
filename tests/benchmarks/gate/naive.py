"""Why the two-sample K-S p-value judges no pairs: shares of draws that it and the rules on D and Pearson's r pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gate.judging import judge, quick_readings

from validation.bootstrap import Bootstrap
from validation.rules import Policy, Rule
from validation.scores import ScoreColumn
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RULES = (
    Rule(output="score", metric="ks_pvalue", min=0.05),
    Rule(output="score", metric="ks", max=0.05),
    Rule(output="score", metric="pearson", min=0.99),
)
FEW, MANY = 200, 100_000
_DRAWS = {FEW: 400, MANY: 20}


@dataclass(frozen=True)
class Naive:
    """Shares of draws, by rule: passed, failed, inconclusive; and the mean D."""

    what: str
    n: int
    draws: int
    d: float
    shares: tuple[tuple[float, float, float], ...]


def _shifted(by: float) -> Callable[[Generator, Values], Values]:
    return lambda _, values: values + by


CASES: tuple[tuple[str, int, Callable[[Generator, Values], Values]], ...] = (
    *((f"shifted by {by:g} standard deviations", FEW, _shifted(by)) for by in (0.05, 0.10, 0.15, 0.20, 0.30)),
    *((f"shifted by {by:g} standard deviations", MANY, _shifted(by)) for by in (0.005, 0.01, 0.02, 0.05)),
    *(("permuted", n, lambda generator, values: generator.permutation(values)) for n in (FEW, MANY)),
)


def naive() -> list[Naive]:
    """The rows of the table."""
    return [_row(number, *case) for number, case in enumerate(CASES)]


def _row(number: int, what: str, n: int, change: Callable[[Generator, Values], Values]) -> Naive:
    policy = Policy(rules=RULES, min_samples=FEW)
    generator, found, distances = np.random.default_rng([20261121, number]), [], []
    for _ in range(_DRAWS[n]):
        reference = generator.standard_normal(n)
        column = ScoreColumn(with_label=False, keeps=True)
        column.update(reference, change(generator, reference), label=None)
        readings = quick_readings(column, Bootstrap(), {rule.metric for rule in RULES})
        results = judge([(rule, readings[rule.metric]) for rule in RULES], policy)
        found.append([result.outcome for result in results])
        distances.append(readings["ks"].value or 0.0)
    shares = tuple(
        tuple(float(np.mean([each[rule] is outcome for each in found])) for outcome in Outcome)
        for rule in range(len(RULES))
    )
    return Naive(what, n, _DRAWS[n], float(np.mean(distances)), shares)


def table(rows: list[Naive]) -> list[str]:
    """As Markdown."""
    names = ("p-value ≥ 0.05", "D ≤ 0.05", "Pearson ≥ 0.99")
    lines = [f"| candidate | n | mean D | {' | '.join(names)} |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [" / ".join(f"{100 * share:.0f}" for share in shares) for shares in row.shares]
        lines.append(f"| {row.what} | {row.n:,} | {row.d:.4f} | {' | '.join(cells)} |")
    return [*lines, "", "Per cent of draws that pass / fail / are inconclusive."]
