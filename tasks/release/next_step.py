"""What brings a first engine to a channel: the step that can be made now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.release.objections import STEPS_NOT_TO_SKIP

if TYPE_CHECKING:
    from tasks.registry.moves import ChannelAddress
    from tasks.registry.registry import Registry


def advise_step(registry: Registry, address: ChannelAddress) -> str:
    """A remedy for a channel that points at nothing: the first step on the way there that no rule forbids.

    Raises:
        RefusedError: a channel on the way is damaged.
    """
    model, target = address.model, address.target
    if not any(cell.target == target for cell in registry.engines.list_cells(model)):
        return f"no engine of {model} for {target} is registered: convert the model first, or correct the names"
    step, on_the_way = address, []
    while step.channel in STEPS_NOT_TO_SKIP and step.before and not registry.channels.read(step.before).moves:
        step = step.before
        on_the_way.append(step.channel.value)
    why = f" ({', '.join(on_the_way)} point{'s' * (len(on_the_way) == 1)} at none either)" if on_the_way else ""
    promote = f"enginegate promote {model} --target {target} --to {step.channel.value}"
    return f"{'begin' if on_the_way else 'move it'} with `{promote}`{why}, or correct the names"
