"""A shelf on which canary and production differ, and the steps of a rollout between them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from tasks.registry.rollouts import RolloutAddress
from tasks.rollout import transitions
from tasks.rollout.plan import settle
from tasks.rollout.transitions import By
from tasks.rollout_spec import RolloutPlan
from tests.tasks.shelf import Shelf
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.registry.engines import SignedManifest
    from tasks.registry.rollouts import RolloutHistory, Rollouts, RolloutState, RolloutStep

ROLLOUT = RolloutAddress("tiny", "cpu")
ID, OTHER_ID = "0123456789ab", "ba9876543210"
BEGAN = datetime(2026, 1, 20, 12, tzinfo=timezone.utc)


def by(who: str = "ann", minutes: float = 0, **changes: Any) -> By:
    """Somebody who does something so many minutes after the beginning."""
    return By(who, BEGAN + timedelta(minutes=minutes), **changes)


class Canary(Shelf):
    """A shelf with FP32 in production and FP16 as the canary."""

    production: SignedManifest
    canary: SignedManifest

    def stock(self) -> Canary:
        """Register both, and point the channels at them."""
        self.production, self.canary = self.register("fp32"), self.register("fp16")
        self.point("canary", self.production)
        self.point("production", self.production)
        self.point("canary", self.canary)
        return self

    def found(self) -> Canary:
        """The same, where somebody stocked it before."""
        self.production, self.canary = (self.registry.engines.read_signed(cell(name)) for name in ("fp32", "fp16"))
        return self

    def reopened_registry(self) -> Rollouts:
        """The rollouts, for somebody who has not read them yet."""
        return self.reopened().registry.rollouts

    def reopened_canary(self) -> Canary:
        """The same registry, for somebody who has not read it yet."""
        again = Canary(self.objects, self.context)
        again.production, again.canary = self.production, self.canary
        return again

    def start(self, plan: RolloutPlan | None = None, rollout_id: str = ID, who: By | None = None) -> RolloutStep:
        """Start a rollout."""
        return self.step(
            transitions.begin,
            canary=self.channel("canary").current,
            production=self.channel("production").current,
            plan=settle(plan or RolloutPlan(), self.canary.manifest),
            rollout_id=rollout_id,
            by=who or by(),
        )

    def step(self, rule: Callable[..., RolloutStep], *arguments: Any, **options: Any) -> RolloutStep:
        """Write the step that a rule says."""
        return self.registry.rollouts.write(ROLLOUT, lambda history: rule(history, *arguments, **options))

    @property
    def history(self) -> RolloutHistory:
        """The rollouts as they are now."""
        return self.registry.rollouts.read(ROLLOUT)

    @property
    def state(self) -> RolloutState:
        """The last rollout as it is now."""
        current = self.history.current
        assert current
        assert current.rollout
        return current.rollout
