"""Makes a stage's work again: what is cached of an engine goes, and its record says who threw it away, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.store.stage_cache import discard_cached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.process.context import StageContext
    from tasks.records import EngineJob


def discard_before(context: StageContext, job: EngineJob, stage: str, key: Mapping[str, object]) -> bool:
    """Throw away what is cached of a stage where the job is to be made again; return whether there was something.

    A job throws away each result once: sent again to another runner, it finds what the first one made.
    """
    return job.again is not None and discard_cached(context.store, stage, key, job.again.model_dump(mode="json"))
