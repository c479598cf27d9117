"""Why a promotion is against the rules: what only an override breaks, and a freeze, which nothing breaks."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tasks.errors import RefusedError
from tasks.registry.moves import ChannelName
from tasks.registry.steps import RolloutAddress, RolloutStatus
from tasks.release.select import points_at
from tasks.rule_view import deciding_sentence
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import ChannelAddress
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutState

# `candidate` and `staging` take any engine that passed: each of those is a candidate, whichever is the fastest.
STEPS_NOT_TO_SKIP = (ChannelName.CANARY, ChannelName.PRODUCTION)
_UNFIT = {RolloutStatus.ROLLED_BACK: "rolled back", RolloutStatus.ABORTED: "aborted"}


def require_thawed(registry: Registry, address: ChannelAddress) -> None:
    """Check that no freeze stands for the model and target of a channel.

    Raises:
        RefusedError: one does, or their rollouts cannot be read.
    """
    rollouts = RolloutAddress(address.model, address.target)
    registry.rollouts.read(rollouts).require_thawed(datetime.now(timezone.utc))


def promotion_objections(
    registry: Registry, address: ChannelAddress, before: Channel | None, proposed: SignedManifest, rollout: str | None
) -> tuple[str, ...]:
    """The rules that a promotion breaks, one sentence each.

    Args:
        registry: with the rollouts.
        address: the channel to move.
        before: the channel of the step before, where the rules ask for it.
        proposed: the engine.
        rollout: the id of the rollout that promotes it, which has taken it through `canary`; None for people.
    """
    skipped = [] if rollout is not None else _skipped_step(address, before, proposed)
    rolled_out = rollout_objections(registry, address, proposed, rollout)
    return (*skipped, *lacking_pass(proposed), *made_up_data(address, proposed), *rolled_out)


def rollout_objections(
    registry: Registry, address: ChannelAddress, proposed: SignedManifest, rollout: str | None
) -> tuple[str, ...]:
    """What a rollout has against a promotion to production: it is open, or the engine did not outlast its last one."""
    if address.channel is not ChannelName.PRODUCTION:
        return ()
    history = registry.rollouts.read(RolloutAddress(address.model, address.target))
    state = history.open_rollout
    if state is not None and state.id != rollout:
        stands = f"a rollout of {state.canary.engine_id} is {state.status.value} at {state.step_name}"
        return (f"{stands}; wait for its end, or `enginegate rollout abort` it",)
    last = _last_rollout_of(history, proposed)
    if last is None or last.status not in _UNFIT:
        return ()
    return (f"its last rollout was {_UNFIT[last.status]}; see `enginegate rollout history`, and roll it out again",)


def _last_rollout_of(history: RolloutHistory, engine: SignedManifest) -> RolloutState | None:
    for one in reversed(history.steps):
        state = one.step.rollout
        if state is not None and (state.canary.engine_id, state.canary.manifest) == (
            engine.manifest.engine_id,
            engine.digest,
        ):
            return state
    return None


def require_running(registry: Registry, address: ChannelAddress, rollout: str) -> None:
    """Check that the rollout which promotes an engine still runs.

    Raises:
        RefusedError: it was held or ended meanwhile.
    """
    state = registry.rollouts.read(RolloutAddress(address.model, address.target)).open_rollout
    if state is None or state.id != rollout or state.status is not RolloutStatus.RUNNING:
        raise RefusedError(f"{address}: rollout {rollout} does not run any more; nothing was moved")


def require_no_new(
    registry: Registry, address: ChannelAddress, proposed: SignedManifest, known: tuple[str, ...]
) -> None:
    """Check that no rollout began since a promotion was shown.

    Raises:
        RefusedError: one did.
    """
    new = [each for each in rollout_objections(registry, address, proposed, None) if each not in known]
    if new:
        raise RefusedError(f"{address}: {new[0]}; nothing was moved")


def _skipped_step(address: ChannelAddress, before: Channel | None, proposed: SignedManifest) -> list[str]:
    if before is None or address.channel not in STEPS_NOT_TO_SKIP:
        return []
    if before.current is not None and points_at(before.current, proposed):
        return []
    there = "no engine yet" if before.current is None else before.current.engine_id
    return [f"skips {before.address.channel.value}, which points at {there}; promote it there first"]


def lacking_pass(proposed: SignedManifest) -> list[str]:
    """That its verdict is no pass; empty where it is one."""
    verdict = proposed.manifest.verdict
    if verdict.outcome is Outcome.PASS:
        return []
    return [f"verdict is {verdict.outcome.value}: {deciding_sentence(verdict).removesuffix('.')}"]


def made_up_data(address: ChannelAddress, proposed: SignedManifest) -> list[str]:
    """That it was validated on synthetic data, which is enough for `candidate` alone."""
    if not proposed.manifest.synthetic or address.channel is ChannelName.CANDIDATE:
        return []
    return ["its validation data are synthetic, and say nothing of real ones; validate it on data and convert again"]
