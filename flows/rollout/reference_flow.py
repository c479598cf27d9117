"""The flow that judges live pairs against PyTorch, on a worker of pool `cpu`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from prefect.states import Completed, Failed
from pydantic import Field

from flows.rollout.reference_check import LARGEST, judge_sample
from flows.session import current_session
from tasks.rollout.reference_sample import MOST
from validation.verdict import Outcome

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


@flow(name="rollout-reference", flow_run_name="{directory} {target}", persist_result=False)
def check_against_reference(
    directory: str,
    target: str,
    most: Annotated[int, Field(ge=1, le=LARGEST)] = MOST,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> State[Any]:
    """Run a sample of the last rollout's pairs through the PyTorch module of a model directory.

    Args:
        directory: absolute path on the worker, which the canary was converted from.
        target: where the engines run.
        most: pairs, at most.
        seed: which of them.

    Returns:
        `Completed` where the canary passes its own policy, else `Failed`.

    Raises:
        InputError: see `judge_sample`.
    """
    state, against = judge_sample(current_session(), Path(directory), target, most=most, seed=seed)
    message = f"{state.canary.engine_id} against PyTorch on {against.samples:,} pairs: {against.canary.outcome.value}"
    return Completed(message=message) if against.canary.outcome is Outcome.PASS else Failed(message=message)
