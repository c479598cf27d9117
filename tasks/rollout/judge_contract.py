"""What the judge of a rollout takes and says: the seam to the validation room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from validation.outputs import OutputSpec
    from validation.policy import Rule
    from validation.verdict import Outcome


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n rows."""

    reference: Mapping[str, NDArray[Any]]
    candidate: Mapping[str, NDArray[Any]]
    slices: Mapping[str, NDArray[Any]]
    groups: NDArray[Any]
    latency_ms: tuple[NDArray[Any], NDArray[Any]]
    failed: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ArmCounts:
    """Of one arm."""

    requests: int
    errors: int
    timeouts: int
    latency: Histogram


@dataclass(frozen=True, kw_only=True)
class RolloutRules:
    """What is judged."""

    rules: tuple[Rule, ...]
    latency: Mapping[str, float]
    errors: float
    confidence: float


class JudgedRule(Protocol):
    """A rule's outcome."""

    @property
    def outcome(self) -> Outcome:
        """Its outcome."""

    @property
    def needed_more(self) -> int | None:
        """How many groups more would decide."""

    @property
    def sentence(self) -> str:
        """In words."""


class Decision(Protocol):
    """What the judge says."""

    @property
    def outcome(self) -> Outcome:
        """The outcome."""

    @property
    def rules(self) -> tuple[Any, ...]:
        """Of each rule."""

    @property
    def pairs(self) -> int:
        """Rows."""

    @property
    def groups(self) -> int:
        """Independent groups."""


class Judge(Protocol):
    """Streams."""

    def add(self, pairs: Pairs) -> None:
        """Canary against production."""

    def add_noise(self, pairs: Pairs) -> None:
        """Production against itself."""

    def count(self, arm: Literal["production", "canary"], counts: ArmCounts) -> None:
        """Add up."""

    def look(self) -> Decision:
        """At any time."""


def make_judge(rules: RolloutRules, outputs: Mapping[str, OutputSpec]) -> Judge:
    """The judge of the validation room, which has seen nothing."""
    raise NotImplementedError


class MakeJudge(Protocol):
    """Makes a judge."""

    def __call__(self, rules: RolloutRules, outputs: Mapping[str, OutputSpec]) -> Judge:
        """A judge that has seen nothing."""
