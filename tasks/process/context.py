"""What every stage is given beside its input: the store, the limits, and whom to tell about progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tasks.process.child import call_in_child, ignore_progress
from tasks.process.kernel import machine_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

    from tasks.store.interface import ArtifactStore

Reply = TypeVar("Reply")


def ignore_warning(_text: str) -> None:
    """Take a warning and do nothing with it."""


@dataclass(frozen=True)
class StageContext:
    """The surroundings of a stage.

    `time_limit_s` holds for each child process, `benchmark_s` for the calls of one side at one batch size;
    `on_progress` takes (done, total), `on_warning` a sentence. `timing_caches` is the folder of what builders keep of
    one build for the next, and `torch_python` the interpreter that has torch, where that is not this one.
    `memory_limit_bytes` holds for each child process that runs the model's own code.
    """

    store: ArtifactStore
    time_limit_s: float = 1800.0
    benchmark_s: float = 3.0
    on_progress: Callable[[int, int], None] = ignore_progress
    on_warning: Callable[[str], None] = ignore_warning
    timing_caches: Path | None = None
    torch_python: Path | None = None
    memory_limit_bytes: int = field(default_factory=machine_memory_bytes)

    def call_in_child(
        self,
        entry: str,
        request: BaseModel,
        reply: type[Reply],
        folder: Path,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        runs_model_code: bool = False,
    ) -> Reply:
        """Run `entry` on one request in a child process within the limits; see `tasks.process.child.Child`.

        `on_progress` is told in place of the stage's own.
        """
        return call_in_child(
            entry,
            request,
            reply,
            folder,
            time_limit_s=self.time_limit_s,
            memory_limit_bytes=self.memory_limit_bytes if runs_model_code else None,
            on_progress=on_progress or self.on_progress,
        )
