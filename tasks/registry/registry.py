"""The registry: engines that passed, channels that point at them, and rollouts, in a folder or in S3 alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.registry.channels import Channels
from tasks.registry.engines import Engines
from tasks.registry.moves import UNNAMED, RegistryName
from tasks.registry.rollouts import Rollouts

if TYPE_CHECKING:
    from tasks.objects.interface import ObjectStore
    from tasks.registry.listeners import Listeners
    from tasks.registry.moves import Move
    from tasks.registry.rollouts import RolloutStep
    from tasks.registry.signing import Signing


class Registry:
    """`engines`, `channels` and `rollouts` over the same `objects`, signed and trusted by the same `signing`."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        listeners: Listeners[Move] | None = None,
        name: RegistryName = UNNAMED,
        step_listeners: Listeners[RolloutStep] | None = None,
    ) -> None:
        self.objects, self.signing, self.name = objects, signing, name
        self.engines = Engines(objects, signing)
        self.channels = Channels(objects, signing, listeners, name)
        self.rollouts = Rollouts(objects, signing, step_listeners, name)
