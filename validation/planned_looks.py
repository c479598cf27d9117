"""Metrics without an honest sequence, such as a correlation: judged by the gate at a few looks that are set beforehand.

At each look the gate's own bounds are asked at a confidence that leaves the looks together as sure as the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from validation.bootstrap import Bootstrap
from validation.comparison import Comparison
from validation.elements import Numbers
from validation.outputs import OutputSpec
from validation.rules import MOST_RESAMPLES, Policy, Rule, fewest_resamples
from validation.verdict import Outcome, RuleResult, decide

LOOKS = tuple(250 * 2**look for look in range(8))
"""After so many groups; then what was last said stays."""
MOST_VALUES = 8
"""So many values of a rule's slice may fail, the commonest at the first look that has them; all have to pass."""

_TAIL = 10.0
"""Resamples that lie beyond a bound, at least."""


@dataclass(frozen=True)
class _Standing:
    outcome: Outcome
    sentence: str
    part: float


class PlannedLooks:
    """The rules that are judged so, for one stream of pairs of independent groups."""

    def __init__(self, rules: Sequence[Rule], outputs: Mapping[str, OutputSpec], alpha: float) -> None:
        """Each look may be wrong with a probability of `alpha / len(LOOKS)`, of any rule, in any value of its slice."""
        values = MOST_VALUES if any(rule.by is not None for rule in rules) else 1
        # No more than resamples can tell: so many rules that this bites share the level less finely than they might.
        confidence = min(1 - alpha / (len(LOOKS) * len(rules) * values), 1 - _TAIL / MOST_RESAMPLES)
        resamples = min(MOST_RESAMPLES, max(2000, fewest_resamples(confidence)))
        self._policy = Policy(rules=tuple(rules), min_samples=LOOKS[0], confidence=confidence, resamples=resamples)
        self._comparison = Comparison(
            {rule.output: outputs[rule.output] for rule in rules},
            by=self._policy.slices,
            plan=Bootstrap(confidence=confidence, resamples=resamples),
        )
        self._n = 0
        self._standings: dict[tuple[Rule, str | None], _Standing] = {}
        self._places: dict[Rule, list[str | None]] = {}
        self._failed: set[tuple[Rule, str | None]] = set()

    def add(
        self, reference: Mapping[str, Numbers], candidate: Mapping[str, Numbers], slices: Mapping[str, Numbers]
    ) -> None:
        """Take in pairs, `[n]` each; a look in the midst of them is taken there."""
        count = len(next(iter(reference.values())))
        start = 0
        while start < count:
            rest = next((look - self._n for look in LOOKS if look > self._n), None)
            if rest is None:
                return  # no look is left
            at = slice(start, min(count, start + rest))
            named = self._policy.rules
            self._comparison.update(
                {rule.output: reference[rule.output][at] for rule in named},
                {rule.output: candidate[rule.output][at] for rule in named},
                slices={name: np.asarray(values)[at] for name, values in slices.items()},
            )
            self._n += at.stop - start
            start = at.stop
            if self._n in LOOKS:
                self._look()

    def results(self, rule: Rule) -> dict[str | None, tuple[Outcome, str, float]]:
        """What the last look said of a rule, by the value of its slice, and what part of the groups has that value.

        Empty before the first look.
        """
        return {
            group: (one.outcome, f"{one.sentence} {self._when}", one.part)
            for (asked, group), one in self._standings.items()
            if asked == rule
        }

    @property
    def more(self) -> int | None:
        """How many groups are left until the next look; None after the last."""
        return next((look - self._n for look in LOOKS if look > self._n), None)

    @property
    def _when(self) -> str:
        last = max((look for look in LOOKS if look <= self._n), default=0)
        return f"(judged at planned looks, the last after {last:,} groups)"

    def _look(self) -> None:
        verdict = decide(self._policy, self._comparison.result())
        for result in sorted(verdict.rules, key=lambda one: -one.n):  # the commonest values first
            key = (result.rule, result.group)
            self._place(*key)
            outcome = self._outcome(result, verdict.defects)
            if outcome is Outcome.FAIL and result.group not in self._places[result.rule]:
                outcome = Outcome.INCONCLUSIVE
            if outcome is Outcome.FAIL:
                self._failed.add(key)
            outcome = Outcome.FAIL if key in self._failed else outcome
            self._standings[key] = _Standing(outcome, result.sentence, result.n / self._n)

    def _place(self, rule: Rule, value: str | None) -> None:
        """Give a value one of the places over which the level is shared; it keeps it."""
        places = self._places.setdefault(rule, [])
        if value not in places and len(places) < MOST_VALUES:
            places.append(value)

    @staticmethod
    def _outcome(result: RuleResult, defects: Sequence[str]) -> Outcome:
        """A metric that has no value, or answers that cannot be compared, are no evidence for either side."""
        if result.value is None or (defects and result.outcome is Outcome.PASS):
            return Outcome.INCONCLUSIVE
        return result.outcome
