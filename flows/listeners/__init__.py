"""Who is told when a channel moves or a rollout goes on: a module and a row for each. See docs/listeners.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.listeners.mlflow_aliases import MlflowAliases
from flows.listeners.mlflow_rollouts import MlflowRollouts
from flows.listeners.rollout_webhook import RolloutWebhook

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.settings import Settings
    from tasks.registry.listeners import Listener
    from tasks.registry.moves import Move
    from tasks.registry.registry import Registry
    from tasks.registry.steps import RolloutStep

LISTENERS: tuple[Callable[[Settings, Registry], Listener[Move]], ...] = (MlflowAliases,)
"""What makes each listener of moves, of the settings and a registry that it may read."""

STEP_LISTENERS: tuple[Callable[[Settings, Registry], Listener[RolloutStep]], ...] = (MlflowRollouts, RolloutWebhook)
"""The same of those who hear of a rollout's steps."""
