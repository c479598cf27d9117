"""How often the judge of a rollout is wrong, looked at after every pair; and what is usually done instead.

    PYTHONPATH=tests/benchmarks python tests/benchmarks/rollout/errors.py [--draws N] [--pairs N]

For each kind of error of the gate's simulations, of an engine that is exactly at its limit: the share of draws in which
it was ever shown to be within (it should be 5 % at most), and in which it was ever shown to be beyond. Beside them a
one-sided t-test of the same mean, looked at as often. Last, a Mann-Whitney test of an engine that is production itself.
"""

from __future__ import annotations

import argparse
from math import log
from typing import TYPE_CHECKING

import numpy as np
from gate.tails import TAILS

from validation.betting import Bet
from validation.live_numbers import CLIP, ask, columns_of
from validation.outputs import OutputKind, OutputSpec
from validation.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gate.engines import Kind
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ALPHA = 0.05
TRUTH = 1_000_000
LEAST = 30
LOOKS = 40
ASKED = {
    "score in [0, 1]": (OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0), ("mae", "p99_abs")),
    "score without a range": (OutputSpec(kind=OutputKind.SCORE), ("mae",)),
    "classes": (OutputSpec(kind=OutputKind.LOGITS), ("top1_agreement", "js")),
    "embeddings": (OutputSpec(kind=OutputKind.EMBEDDING), ("cosine",)),
    "tensors": (OutputSpec(kind=OutputKind.TENSOR), ("mae",)),
    "clusters of scores": (OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0), ("mae",)),
}


def numbers(kind: Kind, engine: str, rule: Rule, spec: OutputSpec, g: np.random.Generator, n: int) -> Floats:
    """What the judge bets on, of n groups: of a cluster, its first sample."""
    reference = kind.reference(g, n * kind.samples_each)
    candidate = kind.engines[engine](g, reference)
    step = slice(None, None, kind.samples_each)
    (answers,) = columns_of(spec, reference[step], candidate[step], 1)
    return ask(rule, spec, None)[1](answers)[0]


def at_limit(kind: Kind, engine: str, metric: str, spec: OutputSpec, g: np.random.Generator) -> Rule | None:
    """The rule whose limit is what this engine has, of a million groups; None where no limit can be so."""
    if metric == "p99_abs":
        reference = kind.reference(g, TRUTH)
        largest = np.abs(kind.engines[engine](g, reference) - reference)
        return Rule(output="o", metric=metric, max=float(np.quantile(largest, 0.99)))
    side = "min" if metric in {"top1_agreement", "cosine"} else "max"
    wide = Rule(output="o", metric=metric, **{side: 1e-9 if side == "min" else 0.69 if metric == "js" else 1e6})
    values = np.concatenate([numbers(kind, engine, wide, spec, g, TRUTH // 10) for _ in range(10)])
    mean = float(values.mean())
    if len(ask(wide, spec, None)[0]) > 1:  # without a range, what is promised is of errors cut at some limits
        for _ in range(50):
            mean = float(np.minimum(values, CLIP * mean).mean())
    limit = 1 - mean if side == "min" else mean
    return None if not 0 < limit < 1e6 else Rule(output="o", metric=metric, **{side: limit})


def draws_of(values: Floats, rule: Rule, spec: OutputSpec) -> tuple[bool, bool, bool]:
    """Whether the judge ever said within, ever beyond, and whether a t-test ever did say within."""
    question = ask(rule, spec, None)[0][0]
    bet = Bet(question.low, question.high, question.limit)
    bet.add(values)
    n = np.arange(1, len(values) + 1)
    mean, square = np.cumsum(values) / n, np.cumsum(values * values) / n
    deviation = np.sqrt(np.maximum(square - mean * mean, 0) * n / np.maximum(n - 1, 1))
    within = mean + 1.645 * deviation / np.sqrt(n) < question.limit
    return bet.below >= log(1 / ALPHA), bet.above >= log(1 / ALPHA), bool(within[LEAST:].any())


def rows(draws: int, pairs: int) -> Iterator[tuple[str, str, str, float, float, float]]:
    """One for each kind of output, error and metric: shares of draws."""
    for name, (spec, metrics) in ASKED.items():
        kind = TAILS[name]
        for engine in kind.engines:
            for metric in metrics:
                g = np.random.default_rng([20261201, sum(map(ord, name + engine + metric))])
                rule = at_limit(kind, engine, metric, spec, g)
                if rule is None:
                    continue
                found = [draws_of(numbers(kind, engine, rule, spec, g, pairs), rule, spec) for _ in range(draws)]
                within, beyond, tested = np.mean(np.array(found, dtype=float), axis=0)
                yield name, engine, metric, float(within), float(beyond), float(tested)


def mann_whitney(draws: int, pairs: int) -> float:
    """How often a Mann-Whitney test at 5 %, at 40 looks, tells two equal streams apart."""
    from scipy.stats import mannwhitneyu  # noqa: PLC0415 - only here

    g, wrong = np.random.default_rng(20261202), 0
    looks = np.linspace(pairs // LOOKS, pairs, LOOKS).astype(int)
    for _ in range(draws):
        one, other = g.random(pairs), g.random(pairs)
        wrong += any(mannwhitneyu(one[:n], other[:n]).pvalue < ALPHA for n in looks)
    return wrong / draws


def main() -> None:
    """Print the table, the worst first of each column at its end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=20_000)
    options = parser.parse_args()
    print(f"{'output':22} {'error':32} {'metric':15} {'within':>7} {'beyond':>7} {'t-test':>7}")
    worst = np.zeros(3)
    for name, engine, metric, *shares in rows(options.draws, options.pairs):
        worst = np.maximum(worst, shares)
        print(f"{name:22} {engine:32} {metric:15}" + "".join(f" {share:7.1%}" for share in shares), flush=True)
    print(f"{'the worst':71}" + "".join(f" {share:7.1%}" for share in worst))
    share = mann_whitney(min(options.draws, 200), min(options.pairs, 4000))
    print(f"Mann-Whitney at {LOOKS} looks, of two streams that are alike: {share:.1%} told apart")


if __name__ == "__main__":
    main()
