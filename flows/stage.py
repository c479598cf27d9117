"""Runs a cached stage under the reporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session import Session
    from tasks.process.context import StageContext
    from tasks.store.stage_cache import StageResult

Result = TypeVar("Result", bound=BaseModel)
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
        lambda progress: stage(session.stage_context(progress), *arguments, **options),
        lambda remembered: describe(remembered.result),
    ).result
