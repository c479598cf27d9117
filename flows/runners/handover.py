"""What a conversion and its runners tell each other, all of it through the artifact store.

A conversion leaves the job of an engine there; whoever makes the engine leaves heartbeats while it works, and its
outcome. Prefect carries digests and ids only: it takes no parameters above 512 KiB, and a job with many shards has
more. Heartbeats are our own, because those of Prefect come every 30 s at best, and a process that was killed
stays `Running` there for ever.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from flows.settings import HEARTBEAT_EVERY_S
from tasks.errors import RefusedError
from tasks.records import EngineJob, EngineOutcome
from tasks.store.digests import digest_json
from tasks.store.stage_cache import artifacts_in
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.declared import Frozen
    from tasks.store.interface import ArtifactStore

JOB, OUTCOME, SIGN = "job", "outcome", "sign-of-life"

Content = TypeVar("Content", bound="Frozen")


def leave_job(store: ArtifactStore, job: EngineJob) -> str:
    """Put a job into the store, and return its name there."""
    key = digest_json(job.model_dump(mode="json")).removeprefix("sha256:")
    _write(store, JOB, key, job)
    return key


def take_job(store: ArtifactStore, engine_id: str, key: str) -> EngineJob:
    """Read the job of an engine.

    Raises:
        RefusedError: it, or an artifact that it names, is not in this store, or it is another engine's.
    """
    job = _read(store, JOB, key, EngineJob)
    if job is None or digest_json(job.model_dump(mode="json")) != f"sha256:{key}" or job.cell.engine_id != engine_id:
        raise RefusedError(
            f"{engine_id}: its job is not in this runner's store; is ENGINEGATE_STORE here that of the conversion?"
        )
    missing = [artifact.digest for artifact in artifacts_in(job) if not store.contains(artifact)]
    if missing:
        raise RefusedError(
            f"{engine_id}: {len(missing)} of its artifacts are not in this runner's store, {missing[0]} first;"
            " is ENGINEGATE_STORE here that of the conversion? If it is, convert again"
        )
    return job


def leave_outcome(store: ArtifactStore, run: str, outcome: EngineOutcome) -> None:
    """Put the outcome of a flow run into the store."""
    _write(store, OUTCOME, _key(run), outcome)


def take_outcome(store: ArtifactStore, run: str, job: EngineJob) -> EngineOutcome | None:
    """The outcome that a flow run left, or None where it left none. Its verdict is provisional: see `verdicts`.

    Raises:
        RefusedError: it is not one of this job, its verdict does not follow from a comparison of its plan alone, or
            an artifact that it names is not in the store.
    """
    outcome = _read(store, OUTCOME, _key(run), EngineOutcome)
    if outcome is None:
        return None
    same = outcome.cell == job.cell and outcome.typed == job.typed and outcome.policy == job.policy
    if not same or not _verdict_follows(outcome):
        raise RefusedError(f"{job.cell.engine_id}: what the runner of {job.cell.target} sent back is no outcome of it")
    missing = [artifact.digest for artifact in artifacts_in(outcome) if not store.contains(artifact)]
    if missing:
        raise RefusedError(
            f"{job.cell.engine_id}: its runner made {missing[0]}, which is not in the store here;"
            " give both one ENGINEGATE_STORE"
        )
    return outcome


def _verdict_follows(outcome: EngineOutcome) -> bool:
    if outcome.verdict is None or outcome.compared is None or outcome.policy is None:
        return outcome.outcome is not Outcome.PASS
    provisional = decide(outcome.policy, outcome.compared.comparison, precision=outcome.cell.precision.value)
    same_plan = outcome.engine is not None and outcome.engine.plan.digest == outcome.compared.plan
    return provisional == outcome.verdict and same_plan and outcome.outcome is outcome.verdict.outcome


@contextmanager
def heartbeat(store: ArtifactStore, run: str) -> Iterator[None]:
    """Leave heartbeats of a flow run in the store until the work inside is done, or this process dies."""
    done = threading.Event()

    def leave() -> None:
        number = 0
        while not done.wait(HEARTBEAT_EVERY_S if number else 0.0):
            number += 1
            with suppress(OSError):  # a store that is away for a while; the next one may come through
                store.write_record(SIGN, _key(run), {"number": number})

    thread = threading.Thread(target=leave, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def last_heartbeat(store: ArtifactStore, run: str) -> object:
    """The last heartbeat of a flow run, which differs from the one before; None before the first."""
    record = store.read_record(SIGN, _key(run))
    return None if record is None else record.get("number")


def _key(run: str) -> str:
    return digest_json({"flow run": run}).removeprefix("sha256:")


def _write(store: ArtifactStore, kind: str, key: str, content: Frozen) -> None:
    result = content.model_dump(mode="json")
    store.write_record(kind, key, {"result": result, "digest": digest_json(result)})


def _read(store: ArtifactStore, kind: str, key: str, model: type[Content]) -> Content | None:
    record = store.read_record(kind, key)
    try:
        if record is None or record.get("digest") != digest_json(record.get("result")):
            return None
        return model.model_validate(record.get("result"))
    except (ValidationError, ValueError):
        return None
