"""What every stage is given beside its input: the store, the limits, and whom to tell about progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.child import ignore_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.store.interface import ArtifactStore


@dataclass(frozen=True)
class Workbench:
    """The surroundings of a stage. `time_limit_s` holds for each child process; `on_progress` takes (done, total)."""

    store: ArtifactStore
    time_limit_s: float = 1800.0
    on_progress: Callable[[int, int], None] = ignore_progress
