"""`enginegate rollout`: which commands it has."""

from __future__ import annotations

import click

from flows.commands.lazy_group import LazyGroup, Row

_STEPS, _LOOKS = "flows.commands.rollout_steps", "flows.commands.rollout_looks"
_OUTSIDE = "flows.commands.rollout_outside"
COMMANDS = {
    "start": Row(f"{_STEPS}:start", "Roll out what `canary` points at, step by step."),
    "run": Row(f"{_LOOKS}:run", "Judge a rollout, and carry it on until it ends."),
    "status": Row(f"{_LOOKS}:status", "Say where a rollout is, and what it waits for."),
    "approve": Row(f"{_STEPS}:approve", "Let a rollout enter its next step."),
    "hold": Row(f"{_STEPS}:hold", "Leave a rollout where it is."),
    "resume": Row(f"{_STEPS}:resume", "Let a rollout that is held go on."),
    "abort": Row(f"{_STEPS}:abort", "End a rollout, and take the canary back."),
    "history": Row(f"{_LOOKS}:history", "Show every step of a model's rollouts."),
    "verify": Row(f"{_LOOKS}:verify", "Decide every step again from its evidence."),
    "reference": Row("flows.commands.rollout_reference:reference", "Judge a sample of live pairs against PyTorch."),
    "freeze": Row(f"{_STEPS}:freeze", "Let nothing move until a day but back."),
    "thaw": Row(f"{_STEPS}:thaw", "Let things move again."),
    "split": Row(f"{_OUTSIDE}:split", "Have HAProxy split traffic as a rollout says."),
    "gate": Row(f"{_OUTSIDE}:gate", "Answer Argo Rollouts and Flagger over HTTP."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def rollout() -> None:
    """Bring a canary to all of production's traffic, judged on live pairs."""
