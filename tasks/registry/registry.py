"""The registry: engines that passed, and the channels that point at them, in a folder or in S3 alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.registry.channels import Channels
from tasks.registry.engines import Engines
from tasks.registry.moves import UNNAMED, RegistryName

if TYPE_CHECKING:
    from tasks.objects.interface import ObjectStore
    from tasks.registry.listeners import Listeners
    from tasks.registry.signing import Signing


class Registry:
    """`engines` and `channels` over the same `objects`, signed and trusted by the same `signing`."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        listeners: Listeners | None = None,
        name: RegistryName = UNNAMED,
    ) -> None:
        self.objects, self.signing, self.name = objects, signing, name
        self.engines = Engines(objects, signing)
        self.channels = Channels(objects, signing, listeners, name)
