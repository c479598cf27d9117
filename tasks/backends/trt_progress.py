"""How far a TensorRT build is: counted from the phases that its builder reports, where it reports any."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildShare:
    """Counts which share of a build is done. Phases nest; a step of a phase is that share of its parent's step.

    Nothing says how many phases a step has, so the second of them would begin where the first began: the share that
    was told last stays until it is passed.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._told = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within the current step of its parent if it has one."""
        self._phases[name] = _Phase(parent, max(steps, 1))

    def complete(self, name: str, step: int) -> float:
        """A step of a phase, counted from 0, has ended; return the share of the build that is done, from 0 to 1."""
        self._phases[name].done = step + 1
        self._told = max(self._told, min(1.0, sum(map(self._share, self._phases.values()))))
        return self._told

    def finish(self, name: str) -> None:
        """A phase has ended, after all of its steps or before."""
        self._phases.pop(name, None)

    def _share(self, phase: _Phase) -> float:
        """What the finished steps of a phase count for in the whole build."""
        return phase.done / phase.steps * self._weight(phase.parent)

    def _weight(self, name: str | None) -> float:
        """What one step of a phase counts for in the whole build."""
        if name is None or name not in self._phases:
            return 1.0
        phase = self._phases[name]
        return self._weight(phase.parent) / phase.steps


def progress_monitor(trt: Any, tell: Callable[[float], None]) -> Any:
    """A monitor that calls `tell` with the share of the build that is done; None where TensorRT has none.

    TensorRT calls it from several threads; it calls `tell` from one at a time.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None
    share, lock = BuildShare(), Lock()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # its base has no type
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                share.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock:
                tell(share.complete(phase_name, step))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                share.finish(phase_name)

    return Monitor()
