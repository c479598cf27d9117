"""A canary that a host could not bring up has failed, whatever was seen of it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.rollout.judge_contract import Decision

NAME = "the canary comes up on every host"
_TOLD_HOSTS = 3


@dataclass(frozen=True)
class CrashRule:
    """The rule that no plan lists: `value` hosts could not bring the canary up, and none may."""

    value: float
    sentence: str
    outcome: Outcome = Outcome.FAIL
    needed_more: int | None = None
    name: str = NAME
    slice: str | None = None
    low: float | None = None
    high: float | None = None
    limit: float = 0.0
    groups: int = 0


@dataclass(frozen=True)
class CrashDecision:
    """What the judge said, failed by a crash."""

    rules: tuple[Any, ...]
    pairs: int
    groups: int
    outcome: Outcome = Outcome.FAIL


def with_crashes(decision: Decision, crashes: Mapping[str, str]) -> Decision:
    """The decision, or the failure that crashes make of it: by host, why it could not bring the canary up."""
    if not crashes:
        return decision
    told = "; ".join(f"{host}: {crashes[host]}" for host in sorted(crashes)[:_TOLD_HOSTS])
    hosts = "1 host" if len(crashes) == 1 else f"{len(crashes):,} hosts"
    rule = CrashRule(float(len(crashes)), f"the canary did not come up on {hosts}: fail. {told}")
    return CrashDecision((rule, *decision.rules), decision.pairs, decision.groups)
