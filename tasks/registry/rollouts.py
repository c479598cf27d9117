"""Rollouts: one signed history for a model and a target, which holds all of its rollouts, the oldest first.

Each step carries the whole state, so that a serving host reads the newest alone: `RolloutHistory.open_rollout`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import RefusedError
from tasks.registry.chained import UNNAMED, RegistryName
from tasks.registry.history import History, SignedHistories
from tasks.registry.listeners import Listeners
from tasks.registry.steps import RolloutAddress, RolloutState, RolloutStep, ServedEngine, SignedStep, StepKind

if TYPE_CHECKING:
    from datetime import datetime

    from tasks.objects.interface import ObjectStore
    from tasks.registry.signing import Signing

__all__ = [
    "RolloutAddress",
    "RolloutHistory",
    "RolloutState",
    "RolloutStep",
    "Rollouts",
    "ServedEngine",
    "SignedStep",
    "StepKind",
    "next_step",
]


class RolloutHistory(History[SignedStep]):
    """The rollouts of a model for a target as they were read; see `History`."""

    address: RolloutAddress

    @property
    def steps(self) -> tuple[SignedStep, ...]:
        """The steps, oldest first."""
        return self.records

    @property
    def current(self) -> RolloutStep | None:
        """The newest step; None where there was never one."""
        return self.steps[-1].step if self.steps else None

    @property
    def open_rollout(self) -> RolloutState | None:
        """The rollout that runs or is held now."""
        return None if self.current is None else self.current.open_rollout

    def require_thawed(self, now: datetime) -> None:
        """Check that things may move.

        Raises:
            RefusedError: a freeze stands.
        """
        if self.current is not None and self.current.is_frozen(now):
            raise RefusedError(
                f"rollout {self.address}: is frozen until {self.current.frozen_until}, and nothing moves but back;"
                " wait, or `enginegate rollout thaw` it"
            )


class Rollouts(SignedHistories[RolloutAddress, SignedStep, RolloutHistory]):
    """The rollouts of a registry: `read` one history, `write` its next step."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        listeners: Listeners[RolloutStep] | None = None,
        name: RegistryName = UNNAMED,
    ) -> None:
        super().__init__(objects, signing, RolloutHistory, (listeners or Listeners[RolloutStep]()).tell, name)


def next_step(
    history: RolloutHistory,
    *,
    kind: StepKind,
    rollout: RolloutState | None,
    who: str,
    when: str,
    reason: str = "",
    why: tuple[str, ...] = (),
    evidence: str | None = None,
) -> RolloutStep:
    """The step that follows the last one of a history; a freeze stays as it is."""
    last = history.steps[-1] if history.steps else None
    return RolloutStep(
        model=history.address.model,
        target=history.address.target,
        number=len(history.steps) + 1,
        previous=None if last is None else last.digest,
        kind=kind,
        rollout=rollout,
        evidence=evidence,
        why=why,
        reason=reason,
        who=who,
        when=when,
        frozen_until=None if last is None else last.step.frozen_until,
    )
