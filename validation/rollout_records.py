"""What the judge of a rollout takes in, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from validation.elements import Numbers
from validation.outputs import OutputSpec
from validation.rules import Rule
from validation.verdict import Outcome

Arm = Literal["production", "canary"]


JUDGE_VERSION = 3
"""Of the judge: it goes up whenever the same evidence may be decided otherwise."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Live requests that both engines answered, n rows in the order in which they came.

    `reference` and `candidate` are production's and the canary's outputs, `[n, ...]` each. `slices` and `groups` are
    text, `[n]`: rows of a group, as a user's requests, are not independent. `latency_ms` is production's and the
    canary's. Where `failed`, the canary gave no answer, and its outputs say nothing.
    """

    reference: Mapping[str, Numbers]
    candidate: Mapping[str, Numbers]
    slices: Mapping[str, Numbers]
    groups: Numbers
    latency_ms: tuple[Numbers, Numbers]
    failed: Numbers


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Latencies in ms: `len(edges) + 1` counts, the last of those beyond the last edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ArmCounts:
    """The requests that one engine answered: how many, of them errors and time-outs, and how long they took."""

    requests: int
    errors: int
    timeouts: int
    latency: Histogram


@dataclass(frozen=True, kw_only=True)
class RolloutRules:
    """What a canary has to keep.

    `rules` are as a policy's, with production for the reference. `latency` limits the canary's `p50` and `p99` over
    production's, `errors` its share of errors and time-outs less production's. `confidence` is that of the decision.
    """

    rules: tuple[Rule, ...]
    latency: Mapping[str, float]
    errors: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class JudgedRule:
    """A rule, or a rule in one value of its slice: what was seen, and what it shows.

    `needed_more` are groups of all traffic. Where it does not bind, it may fail, and a pass does not wait for it.
    """

    name: str
    outcome: Outcome
    value: float | None
    limit: float
    groups: int
    needed_more: int | None
    sentence: str
    binds: bool = True

    @property
    def is_awaited(self) -> bool:
        """Whether a pass waits for it."""
        return self.binds and self.outcome is Outcome.INCONCLUSIVE


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the judge says of `pairs` rows of `groups` independent groups."""

    outcome: Outcome
    rules: tuple[JudgedRule, ...]
    pairs: int
    groups: int


class RolloutJudge(Protocol):
    """What takes in what was seen, and says at any time what that shows."""

    def add(self, pairs: Pairs) -> None:
        """Take in pairs of the canary and production."""

    def add_noise(self, pairs: Pairs) -> None:
        """Take in pairs of production with itself."""

    def count(self, arm: Arm, counts: ArmCounts) -> None:
        """Add what one engine answered for users."""

    def look(self) -> Decision:
        """What all that shows."""


class MakeJudge(Protocol):
    """Makes a judge that has seen nothing."""

    def __call__(self, rules: RolloutRules, outputs: Mapping[str, OutputSpec]) -> RolloutJudge:
        """A judge of these rules, for a model with these outputs."""


def rows_of(pairs: Pairs, rows: NDArray[np.int64]) -> Pairs:
    """Some rows of pairs, in this order."""

    def chosen(arrays: Mapping[str, Numbers]) -> dict[str, Numbers]:
        return {name: np.asarray(array)[rows] for name, array in arrays.items()}

    return Pairs(
        reference=chosen(pairs.reference),
        candidate=chosen(pairs.candidate),
        slices=chosen(pairs.slices),
        groups=np.asarray(pairs.groups)[rows],
        latency_ms=(np.asarray(pairs.latency_ms[0])[rows], np.asarray(pairs.latency_ms[1])[rows]),
        failed=np.asarray(pairs.failed)[rows],
    )
