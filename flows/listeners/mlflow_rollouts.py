"""Lets MLflow show, on the run of an engine, how its rollout stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records import Cell
from tasks.registry.steps import STAYING, RolloutAddress
from tasks.tracking.run_tags import tag_run

if TYPE_CHECKING:
    from flows.settings import Settings
    from tasks.registry.registry import Registry
    from tasks.registry.steps import RolloutStep

_LONGEST = 5000  # what MLflow takes of a tag


@dataclass(frozen=True)
class MlflowRollouts:
    """Tags on the canary's run: `enginegate.rollout`, `.rollout_step`, `.rollout_reason` and `.rollout_evidence`."""

    settings: Settings
    registry: Registry
    name: str = "MLflow"

    def hear(self, step: RolloutStep, /) -> None:
        """Write the tags of the newest step, which may be later than this one.

        Raises:
            RefusedError: the rollouts or the manifest cannot be trusted, and nothing is shown.
            StageError: there is no MLflow, or it cannot be reached or refuses.
        """
        if step.kind in STAYING:
            return
        newest = self.registry.rollouts.read(RolloutAddress(step.model, step.target)).current or step
        state = newest.rollout
        if state is None:
            return
        run = self.registry.engines.read_signed(Cell.parse(state.canary.engine_id)).manifest.mlflow_run
        if run is None:
            return
        tags = {
            "enginegate.rollout": f"{state.status.value} at {state.step_name}",
            "enginegate.rollout_step": f"{newest.number} ({newest.kind.value}) at {newest.when}",
            "enginegate.rollout_reason": newest.reason[:_LONGEST],
            "enginegate.rollout_evidence": newest.evidence or "none",
        }
        tag_run(self.settings.tracking_uri, run, tags, f"showing the rollout of {state.canary.engine_id}")
