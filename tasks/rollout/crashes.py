"""A canary that a host could not bring up has failed, whatever was seen of it elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from validation.rollout_records import JudgedRule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from validation.rollout_records import Decision

NAME = "hosts on which the canary does not come up"
_TOLD_HOSTS = 3


def with_crashes(decision: Decision, crashes: Mapping[str, str]) -> Decision:
    """The decision, or the failure that crashes make of it: by host, why it could not bring the canary up."""
    if not crashes:
        return decision
    told = "; ".join(f"{host}: {crashes[host]}" for host in sorted(crashes)[:_TOLD_HOSTS])
    hosts = "1 host" if len(crashes) == 1 else f"{len(crashes):,} hosts"
    rule = JudgedRule(
        name=NAME,
        outcome=Outcome.FAIL,
        value=float(len(crashes)),
        limit=0.0,
        groups=0,
        needed_more=None,
        sentence=f"the canary did not come up on {hosts}: fail. {told}",
    )
    return replace(decision, outcome=Outcome.FAIL, rules=(rule, *decision.rules))
