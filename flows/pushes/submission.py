"""Sends a push to Prefect, as one run of the deployment `convert-commit`, and reads what came of it.

Prefect reads its settings when it is imported, and takes seconds: import this module where it is needed.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound
from pydantic import TypeAdapter, ValidationError

from flows.console import short_commit
from flows.pushes.verdict_table import ModelResult
from flows.runners.pools import DEPLOY
from tasks.errors import EnginegateError, ExitCode, InputError, RefusedError, StageError, printable, worst_of
from tasks.git.remote_address import check_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

DEPLOYMENT = "convert-commit/convert-commit"
POLL_S = 2.0
SERVER_LIMIT_S = 300.0
MOST_TRIES = 100
LONGEST_REF = 255
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ERROR = re.compile(r"\b(InputError|RefusedError|StageError|EnginegateError): ")
_ERRORS = {error.__name__: error for error in (InputError, RefusedError, StageError, EnginegateError)}
_RESULTS = TypeAdapter(tuple[ModelResult, ...])


@dataclass(frozen=True)
class Push:
    """A push: `address` is an absolute path or an address on the worker, `commit` and `old` are full ids.

    Without `old` it is the commit's first parent, and zeros mean that there was nothing before. `again` is the reason
    for making engines again: with another reason it is another push.

    Raises:
        InputError: a part of it is none.
    """

    address: str
    commit: str
    old: str | None = None
    ref: str | None = None
    again: str | None = None

    def __post_init__(self) -> None:
        if not self.address.startswith("/"):
            check_address(self.address, (self.address,))  # the worker says whether it is allowed
        for name, commit in (("commit", self.commit), ("from", self.old)):
            if commit is not None and not _COMMIT.fullmatch(commit):
                raise InputError(f"--{name}: {commit!r} is no full id of a commit; give 40 or 64 hexadecimal digits")

    def key(self, number: int) -> str:
        """What Prefect knows the push's n-th run by: the same push sent twice has the same ones."""
        again = () if self.again is None else (self.again,)
        parts = (self.address.rstrip("/"), self.old or "", self.commit, *again)
        digest = hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()
        return f"push-{digest}-{number}"

    def parameters(self) -> dict[str, str]:
        """The parameters of the flow."""
        # The branch is for people: one that cannot be shown keeps no push back.
        ref = self.ref if self.ref and len(self.ref) <= LONGEST_REF and self.ref.isprintable() else None
        known = {"repository": self.address, "commit": self.commit, "old": self.old, "ref": ref, "again": self.again}
        return {name: value for name, value in known.items() if value is not None}


def submit_push(client: SyncPrefectClient, push: Push) -> FlowRun:
    """The run of a push: a new one, or the one that the same push has already, unless that went wrong.

    Raises:
        InputError: Prefect does not know the deployment.
        StageError: a hundred runs of this push went wrong.
    """
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise InputError(f"Prefect has no deployment {DEPLOYMENT}; make it with `{DEPLOY}`") from None
    for number in range(1, MOST_TRIES + 1):
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=push.parameters(),
            name=short_commit(push.commit),
            tags=[f"commit:{short_commit(push.commit)}"],
            idempotency_key=push.key(number),
        )
        # One that did not come to its end is tried again; what it converted is found done.
        if run.state is None or not run.state.is_final() or run.state.is_completed():
            return run
    raise StageError(
        f"{MOST_TRIES} runs of commit {short_commit(push.commit)} went wrong; see the last of them in Prefect"
    )


def wait_for(client: SyncPrefectClient, run_id: UUID, limit_s: float) -> FlowRun:
    """The run once it has ended.

    Raises:
        StageError: it has not within `limit_s` seconds; it goes on.
        EnginegateError: Prefect's server has not answered for five minutes.
    """
    deadline, heard = time.monotonic() + limit_s, time.monotonic()
    state = "unknown"
    while time.monotonic() < deadline:
        try:
            run = client.read_flow_run(run_id)
        except ObjectNotFound:
            raise StageError(f"the run {run_id} was deleted in Prefect; submit the commit again") from None
        except httpx.HTTPError as error:  # a server that restarts answers again
            if time.monotonic() - heard > SERVER_LIMIT_S:
                raise EnginegateError(f"Prefect's server no longer answers: {error}; submit again") from None
        else:
            heard = time.monotonic()
            if run.state is not None and run.state.is_final():
                return run
            state = _name(run.state)
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
    raise StageError(
        f"no verdicts within {limit_s:g} s: run {run_id} is {state}; it goes on, and the same command waits for it"
        " again; if it never starts, see that pool cpu has a worker"
    )


def _name(state: State | None) -> str:
    return (state.name if state else None) or "unknown"


def read_results(client: SyncPrefectClient, run: FlowRun) -> tuple[ModelResult, ...]:
    """What became of the models of a run that has ended.

    Raises:
        EnginegateError: it left nothing that can be read, with the reason that the run gives; of the class that it
            names.
    """
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), type=ArtifactFilterType(any_=["table"]))
    for artifact in client.read_artifacts(artifact_filter=wanted, limit=1, offset=0, sort=ArtifactSort.CREATED_DESC):
        try:
            return _RESULTS.validate_json(str(artifact.data))
        except ValidationError:
            break
    said = printable((run.state.message if run.state else None) or _name(run.state))
    named = _ERROR.search(said)
    error = EnginegateError if named is None else _ERRORS[named[1]]
    raise error(f"run {run.name} left no verdicts: {said[named.end() :] if named else said}")


def exit_code_of(models: Sequence[ModelResult]) -> ExitCode:
    """As that of `enginegate convert-commit`: 2 where a model is broken, else the worst of the conversions."""
    if any(model.version is None for model in models):
        return ExitCode.BAD_INPUT
    return worst_of(model.exit_code for model in models)
