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
    """The surroundings of a stage.

    `time_limit_s` holds for each child process, `benchmark_s` for the calls of one side at one batch size;
    `on_progress` takes (done, total).
    """

    store: ArtifactStore
    time_limit_s: float = 1800.0
    benchmark_s: float = 3.0
    on_progress: Callable[[int, int], None] = ignore_progress
