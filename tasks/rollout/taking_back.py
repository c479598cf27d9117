"""Takes a canary back: what follows an abort or a rollback, written once however often it is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import printable
from tasks.records import LONGEST_REASON
from tasks.registry.channels import next_move
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.steps import RolloutStatus
from tasks.rollout import transitions

if TYPE_CHECKING:
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move
    from tasks.registry.registry import Registry
    from tasks.registry.steps import RolloutAddress, RolloutState, RolloutStep
    from tasks.rollout.transitions import By

TAKEN_BACK = {RolloutStatus.ROLLED_BACK: "rolled back", RolloutStatus.ABORTED: "aborted"}
"""How a rollout ended whose canary goes back, in words."""


def abort(registry: Registry, address: RolloutAddress, by: By) -> RolloutStep:
    """End a rollout, and move `canary` back to what production serves.

    Raises:
        RefusedError: none is open, or this host's key may not.
    """
    step = registry.rollouts.write(address, lambda history: transitions.abort(history, by))
    assert step.rollout is not None  # noqa: S101 - an abort has one
    take_back_canary(registry, address, step.rollout, by.reason, by.who)
    return step


def take_back_canary(
    registry: Registry, address: RolloutAddress, state: RolloutState, reason: str, who: str
) -> Move | None:
    """Move `canary` back to what production points at, once for a rollout; return the move, if any was made.

    A canary that was moved to another engine meanwhile stays, and so does one that a person put there again after it
    had been taken back.

    Raises:
        RefusedError: a channel cannot be trusted, or this host's key may not move it.
    """
    canary, production = (
        ChannelAddress(address.model, address.target, name) for name in (ChannelName.CANARY, ChannelName.PRODUCTION)
    )
    target = registry.channels.read(production).current
    mark = f"rollout {state.id} "

    def decide(channel: Channel) -> Move | None:
        current = channel.current
        if target is None or current is None or current.engine_id == target.engine_id:
            return None
        if (current.engine_id, current.manifest) != (state.canary.engine_id, state.canary.manifest):
            return None
        if any(one.move.kind == "rollback" and one.move.reason.startswith(mark) for one in channel.moves):
            return None
        return next_move(
            channel,
            kind="rollback",
            engine_id=target.engine_id,
            manifest=target.manifest,
            reason=shortened(f"{taken_back_words(state)}: {reason}"),
            override=target.override,
            who=who,
        )

    return registry.channels.move(canary, decide)


def taken_back_words(state: RolloutState) -> str:
    """`rollout 0123456789ab was rolled back at 5`: how the reason of the move of `canary` begins."""
    return f"rollout {state.id} was {TAKEN_BACK[state.status]} at {state.step_name}"


def shortened(text: str) -> str:
    """The text in one line, as far as a history takes it."""
    text = printable(text)
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
