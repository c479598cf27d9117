"""How many pairs the judge of a rollout needs, and how soon it rolls a bad engine back.

python tests/benchmarks/rollout/requests.py [--draws N]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.outputs import OutputKind, OutputSpec
from validation.rollout_judge import Judge
from validation.rollout_records import Pairs, RolloutRules, rows_of
from validation.rules import Rule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

SCORE = {"score": OutputSpec(kind=OutputKind.SCORE, low=0.0, high=1.0)}
LABELS = {"label": OutputSpec(kind=OutputKind.LABELS)}
DAY, MIRROR = 100_000, 0.05
MOST, STEP = 6000, 10
"""Pairs of a draw, and how many come between two looks here; the judge itself bets on each."""


def pairs_of(output: str, reference: Any, candidate: Any, **changes: Any) -> Pairs:
    """Pairs of as many users as there are rows."""
    n = len(reference)
    latency = np.full(n, 5.0)
    found = Pairs(
        reference={output: reference},
        candidate={output: candidate},
        slices={"language": np.where(np.arange(n) % 10 == 0, "fr", "de")},
        groups=np.arange(n).astype(str),
        latency_ms=(latency, latency),
        failed=np.zeros(n, dtype=bool),
    )
    return replace(found, **changes)


def until(pairs: Pairs, rules: RolloutRules, outputs: dict[str, OutputSpec], wanted: Outcome) -> float:
    """After how many pairs the outcome is this one; infinity where it never is."""
    judge = Judge(rules, outputs)
    for start in range(0, len(pairs.groups), STEP):
        judge.add(rows_of(pairs, np.arange(start, min(start + STEP, len(pairs.groups)))))
        if judge.look().outcome is wanted:
            return start + STEP
    return float("inf")


def rules_of(*rules: Rule, latency: dict[str, float] | None = None, errors: float = 0.5) -> RolloutRules:
    """Rules at 95 %."""
    return RolloutRules(rules=rules, latency=latency or {}, errors=errors, confidence=0.95)


def scores(g: np.random.Generator, mean_error: float) -> tuple[Any, Any]:
    """Scores whose errors are normal, of that mean absolute size."""
    reference = g.random(MOST)
    return reference, reference + g.normal(0, mean_error * np.sqrt(np.pi / 2), MOST)


def good(limit: float, mean_error: float) -> Callable[[np.random.Generator], float]:
    """Pairs until a sound engine passes a limit on its mean absolute error."""
    rules = rules_of(Rule(output="score", metric="mae", max=limit))
    return lambda g: until(pairs_of("score", *scores(g, mean_error)), rules, SCORE, Outcome.PASS)


def agreeing(limit: float, share: float) -> Callable[[np.random.Generator], float]:
    """Pairs until an engine passes a limit on disagreement, in which it has a share."""
    rules = rules_of(Rule(output="label", metric="agreement", min=1 - limit))

    def draw(g: np.random.Generator) -> float:
        reference = g.integers(0, 9, MOST)
        return until(pairs_of("label", reference, reference + (g.random(MOST) < share)), rules, LABELS, Outcome.PASS)

    return draw


BAD = rules_of(
    Rule(output="score", metric="mae", max=0.02),
    Rule(output="score", metric="p99_abs", max=0.1),
    Rule(output="score", metric="mae", max=0.02, by="language"),
    latency={"p50": 1.2, "p99": 1.2},
    errors=0.002,
)


def biased_slice(g: np.random.Generator) -> float:
    """Off by a tenth of the range for one in ten."""
    reference, candidate = scores(g, 0.001)
    candidate = np.where(np.arange(MOST) % 10 == 0, candidate + 0.1, candidate)
    return until(pairs_of("score", reference, candidate), BAD, SCORE, Outcome.FAIL)


def failing(g: np.random.Generator) -> float:
    """No answer to one request in a hundred."""
    return until(pairs_of("score", *scores(g, 0.001), failed=g.random(MOST) < 0.01), BAD, SCORE, Outcome.FAIL)


def wrong_at_times(g: np.random.Generator) -> float:
    """Wrong by half of the range at two requests in a hundred, where one is allowed."""
    reference, candidate = scores(g, 0.001)
    candidate = np.where(g.random(MOST) < 0.02, (candidate + 0.5) % 1.0, candidate)
    return until(pairs_of("score", reference, candidate), BAD, SCORE, Outcome.FAIL)


def slow(g: np.random.Generator) -> float:
    """Twice as slow as production, in all its quantiles; p50 is not limited here."""
    production = g.lognormal(2, 0.3, MOST)
    pairs = pairs_of("score", *scores(g, 0.001), latency_ms=(production, 2 * production[g.permutation(MOST)]))
    return until(pairs, replace(BAD, latency={"p99": 1.2}), SCORE, Outcome.FAIL)


def main() -> None:
    """Print medians and 90th percentiles over draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    print(f"{'':62} {'median':>8} {'90 %':>8}   pairs, of {draws} draws")
    sound = {
        "MAE at most 0.02, truly 0.0004: passes": good(0.02, 0.0004),
        "MAE at most 0.01, truly 0.005: passes": good(0.01, 0.005),
        "disagreement at most 1 %, truly 0.2 %: passes": agreeing(0.01, 0.002),
    }
    bad = {
        "off by 0.1 in a slice of 10 %: rolled back": biased_slice,
        "no answer at 1 % of requests: rolled back": failing,
        "wrong by half of the range at 2 %: rolled back": wrong_at_times,
        "twice as slow at p99: rolled back": slow,
    }
    for name, draw in {**sound, **bad}.items():
        found = [draw(np.random.default_rng([20261201, number])) for number in range(draws)]
        median, most = np.median(found), np.percentile(found, 90, method="higher")
        answered = (
            f"   {most * 0.01 / MIRROR:,.0f} users answered at 1 % and {MIRROR:.0%} mirrored" if name in bad else ""
        )
        print(f"{name:62} {median:8,.0f} {most:8,.0f}{answered}", flush=True)


if __name__ == "__main__":
    main()
