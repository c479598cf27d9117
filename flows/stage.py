"""Runs a cached stage under the reporter, and as a task of Prefect's where a flow runs.

The stages are plain functions of `tasks/`. Their cache is the artifact store's own (`tasks.store.stage_cache`), because
it must hold without Prefect too; Prefect's is off.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session import Session
    from tasks.process.context import StageContext
    from tasks.store.stage_cache import StageResult

Result = TypeVar("Result", bound=BaseModel)
Work = TypeVar("Work", bound="Callable[..., object]")
Arguments = ParamSpec("Arguments")


def run_stage(
    session: Session,
    name: str,
    stage: Callable[Concatenate[StageContext, Arguments], StageResult[Result]],
    describe: Callable[[Result], str],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> Result:
    """Run a cached stage under the reporter, and return its result."""
    return session.reporter.step(
        name,
        lambda progress: in_flow(stage)(session.stage_context(progress), *arguments, **options),
        lambda made: describe(made.result),
    ).result


def in_flow(work: Work) -> Work:
    """The same function, as a task of the flow that runs; itself where none does."""
    if "prefect" not in sys.modules:  # it reads its settings when imported, and takes a second
        return work
    from prefect.context import FlowRunContext  # noqa: PLC0415 - as above

    return work if FlowRunContext.get() is None else _as_task(work)


@functools.cache
def _as_task(work: Work) -> Work:
    from prefect import task  # noqa: PLC0415 - as above
    from prefect.cache_policies import NO_CACHE  # noqa: PLC0415 - as above

    return cast("Work", task(cache_policy=NO_CACHE, persist_result=False)(work))
