"""Who is told when a channel moves: one module a listener, and a row for each. See docs/listeners.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.listeners.mlflow_aliases import MlflowAliases

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.settings import Settings
    from tasks.registry.listeners import Listener
    from tasks.registry.moves import Move
    from tasks.registry.registry import Registry

LISTENERS: tuple[Callable[[Settings, Registry], Listener[Move]], ...] = (MlflowAliases,)
"""What makes each listener, of the settings and a registry that it may read."""
