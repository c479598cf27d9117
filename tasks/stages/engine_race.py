"""Stage 5 of an upgrade: an engine and the one that it would replace, timed in turns where this host can load both."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends import backend_of
from tasks.backends.compatibility import refuse_elsewhere
from tasks.stages.again import discard_before
from tasks.stages.benchmark import BEFORE, ROUNDS, Race, Turn, latency_of, median_bounds, ratios_over
from tasks.store.stage_cache import StageResult, run_cached
from tasks.timings import EngineRace, RaceAt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.records import BackendIdentity, EngineJob
    from tasks.stages.benchmark import Side

RECIPE = 1


def race_engines(
    context: StageContext,
    job: EngineJob,
    new: Artifact,
    old: Artifact,
    built: BackendIdentity,
    options: Mapping[str, str],
) -> StageResult[EngineRace]:
    """Time the plan `new` of a job and `old`, which `built` made with `options`, in turns (`tasks.stages.benchmark`).

    Raises:
        RefusedError: this host cannot load the old one.
        StageError: one of them crashed.
    """
    spec = job.spec
    identity = backend_of(job.cell.runtime).identity()
    refuse_elsewhere(built, identity, options, job.cell.target)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "new": new.digest,
        "old": old.digest,
        "backend": identity.model_dump(),
        "data": job.data.inputs.digest,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "dims": {name: dim.model_dump(mode="json") for name, dim in spec.dims.items()},
        "rounds": ROUNDS,
        "seconds": context.benchmark_s,
    }

    def produce(folder: Path) -> EngineRace:
        with ExitStack() as stack:
            base: dict[str, Any] = {"target": job.cell.target, "runtime": job.cell.runtime, "inputs": spec.inputs}
            base |= {"extents": {}, "seconds": 0.0, "data": context.store.fetch(job.data.inputs, folder / "inputs")}
            race = Race(context, job, folder, stack)
            race.enter(None, Turn(plan=context.store.fetch(new, folder / "new"), **base))
            race.enter(BEFORE, Turn(plan=context.store.fetch(old, folder / "old"), **base))
            rounds = race.run()
        batches = tuple(_race_at(size, taken) for size, taken in rounds.items())
        return EngineRace(batches=batches, headline_batch=spec.dims[spec.batch_dim].opt)

    discard_before(context, job, "race", key)
    return run_cached(context.store, "race", key, EngineRace, produce)


def _race_at(batch: int, taken: Sequence[Mapping[Side, tuple[float, ...]]]) -> RaceAt:
    ratios = ratios_over(taken, BEFORE)
    low, high = median_bounds(ratios)
    return RaceAt(
        before=latency_of(batch, [turns[BEFORE] for turns in taken]),
        after=latency_of(batch, [turns[None] for turns in taken]),
        speedup=float(np.median(ratios)),
        low=low,
        high=high,
    )
