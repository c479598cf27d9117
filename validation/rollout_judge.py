"""The judge of a rollout: pairs of answers in, a decision out, at any time and as often as one likes.

*Fail* where a rule is shown to be broken: the chance that any of a sound engine's rules ever is, at any look, is
1 - confidence at most, shared over the rules. *Pass* where every rule is shown to be kept, each at that confidence: an
engine that breaks one passes with that probability at most, since it has to pass that one too. Else *inconclusive*.
docs/rollout-statistics.md says what is assumed.
"""

from collections.abc import Mapping
from math import log

import numpy as np

from validation.betting import Bet
from validation.metrics import METRICS
from validation.outputs import OutputSpec
from validation.pair_stream import PairStream, said
from validation.quantile_sequences import LatencyCounts, share_bounds
from validation.rollout_records import Arm, ArmCounts, Decision, Histogram, JudgedRule, Pairs, RolloutRules
from validation.rules import Rule
from validation.units import Floats
from validation.verdict import Outcome

QUANTILES = {"p50": 0.5, "p99": 0.99}


class Judge:
    """Takes in what was seen, in order, and says at any time what that shows.

    The same rows in the same order give the same decision, however they are cut into calls. Of each group, its first
    row counts: independent groups are what the promises rest on.

    Raises:
        ValueError: a rule cannot be judged on live traffic, or there is none.
    """

    def __init__(self, rules: RolloutRules, outputs: Mapping[str, OutputSpec]) -> None:
        if not rules.rules:
            raise ValueError("rules: there are none, so anything would pass; list at least one")
        for rule in rules.rules:
            _require_judgeable(rule, outputs)
        self._rules = rules
        self._alpha = 1 - rules.confidence
        parts = len(rules.rules) + len(rules.latency) + 1
        self._share = self._alpha / parts
        self._canary = PairStream(rules.rules, outputs, self._share)
        self._noise = PairStream(rules.rules, outputs, self._share)
        self._errors = Bet(0.0, 1.0, max(rules.errors, 1e-9))
        self._paired = _Latencies()
        self._arms = _Latencies()
        self._twice = _Latencies()
        self._failures: dict[Arm, list[int]] = {"canary": [0, 0], "production": [0, 0]}

    def add(self, pairs: Pairs) -> None:
        """Take in pairs of the canary and production."""
        fresh = self._canary.first_of_groups(pairs)
        failed = np.asarray(fresh.failed, dtype=bool)
        self._errors.add(failed.astype(np.float64))
        production, canary = (np.asarray(side, dtype=np.float64) for side in fresh.latency_ms)
        self._paired.add(production, np.where(failed, np.inf, canary))
        self._canary.add(fresh)

    def add_noise(self, pairs: Pairs) -> None:
        """Take in pairs of production with itself."""
        fresh = self._noise.first_of_groups(pairs)
        first, second = (np.asarray(side, dtype=np.float64) for side in fresh.latency_ms)
        self._twice.add(first, np.where(np.asarray(fresh.failed, dtype=bool), np.inf, second))
        self._noise.add(fresh)

    def count(self, arm: Arm, counts: ArmCounts) -> None:
        """Add what one engine answered for users; its requests are taken for independent."""
        found = self._failures[arm]
        found[0] += counts.errors + counts.timeouts
        found[1] += counts.requests
        self._arms.add_counts(arm, counts.latency)

    def look(self) -> Decision:
        """What all that shows."""
        judged = [
            *self._canary.judged(self._alpha, self._noise),
            *(self._judge_latency(name, limit) for name, limit in self._rules.latency.items()),
            self._judge_errors(),
        ]
        outcomes = {one.outcome for one in judged if one.binds or one.outcome is Outcome.FAIL}
        worst = next(each for each in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if each in outcomes)
        return Decision(outcome=worst, rules=tuple(judged), pairs=self._canary.rows, groups=len(self._canary.groups))

    def _judge_errors(self) -> JudgedRule:
        bet, limit = self._errors, self._rules.errors
        canary, production = (share_bounds(bad, n, self._share / 4) for bad, n in self._failures.values())
        worse = canary[0] - production[1]
        if bet.above >= log(2 / self._share) or worse > limit:
            outcome = Outcome.FAIL
        else:
            outcome = Outcome.PASS if bet.below >= log(1 / self._alpha) else Outcome.INCONCLUSIVE
        share = "none yet" if bet.mean is None else f"{bet.mean:.2%} of {bet.n:,} mirrored requests"
        served = self._failures["canary"]
        more = bet.more(log(1 / self._alpha)) if outcome is Outcome.INCONCLUSIVE else None
        text = f"errors and time-outs: {share}, {served[0]:,} of {served[1]:,} served"
        return said("errors", outcome, bet.mean, limit, bet.n, more, text, f"{limit:.2%} more than production's")

    def _judge_latency(self, name: str, limit: float) -> JudgedRule:
        q, outcome = QUANTILES[name], Outcome.INCONCLUSIVE
        slower = self._second_call()
        for source, (least, most) in ((self._paired, slower), (self._arms, (1.0, 1.0))):
            if source.ratio(q, self._share / 8)[0] > limit * most:
                outcome = Outcome.FAIL
            elif source.ratio(q, self._alpha / 8)[1] <= limit * least and outcome is not Outcome.FAIL:
                outcome = Outcome.PASS
        low, high = self._paired.ratio(q, self._alpha / 8)
        text = f"latency {name}: {low:.3g} to {high:.3g} times production's on {self._paired.n:,} mirrored requests"
        if self._twice.n:
            text += f", of which production's own second call takes {slower[0]:.3g} to {slower[1]:.3g}"
        return said(f"latency {name}", outcome, None, limit, self._paired.n, None, text, f"{limit:g} times")

    def _second_call(self) -> tuple[float, float]:
        """How much longer the second call of one request takes, by production's with itself: at least and at most.

        The canary's is always the second. Below a millisecond that alone may take half as long again. The median says
        it, as the tail of so few pairs is not known; it is 1 at least, and where nothing is known at all.
        """
        if not self._twice.n:
            return 1.0, 1.0
        least, most = self._twice.ratio(0.5, self._alpha / 8)[0], self._twice.ratio(0.5, self._share / 8)[1]
        return max(1.0, least), max(1.0, most)


def make_judge(rules: RolloutRules, outputs: Mapping[str, OutputSpec]) -> Judge:
    """A judge that has seen nothing."""
    return Judge(rules, outputs)


def _require_judgeable(rule: Rule, outputs: Mapping[str, OutputSpec]) -> None:
    what = f"{rule.output} {rule.metric}"
    if METRICS[rule.metric].needs_label:
        raise ValueError(f"{what}: needs labels, which live traffic has not; choose another metric")
    if outputs[rule.output].mask is not None:
        raise ValueError(f"{what}: the output's mask is an input, which pairs do not keep; list rules on other outputs")


class _Latencies:
    """Latencies of both engines."""

    def __init__(self) -> None:
        self._counts: dict[Arm, LatencyCounts] = {"production": LatencyCounts(), "canary": LatencyCounts()}

    @property
    def n(self) -> int:
        return self._counts["canary"].n

    def add(self, production: Floats, canary: Floats) -> None:
        self._counts["production"].add(production)
        self._counts["canary"].add(canary)

    def add_counts(self, arm: Arm, histogram: Histogram) -> None:
        self._counts[arm].add_counts(histogram.edges, histogram.counts)

    def ratio(self, q: float, alpha: float) -> tuple[float, float]:
        """Bounds of the canary's quantile over production's, each right with probability 1 - 2 alpha."""
        (p_low, p_high), (c_low, c_high) = (self._counts[arm].bounds(q, alpha) for arm in ("production", "canary"))
        return (0.0 if np.isinf(p_high) else c_low / p_high), (float("inf") if p_low == 0 else c_high / p_low)
