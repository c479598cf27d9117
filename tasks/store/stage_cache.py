"""The cache of stages: same key, no work; anything differs, no reuse."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel

from tasks.artifact import Artifact
from tasks.store.digests import canonical_json, digest_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tasks.store.interface import ArtifactStore

Result = TypeVar("Result", bound=BaseModel)


@dataclass(frozen=True)
class StageResult(Generic[Result]):
    """A stage's result, and whether it was found (`cached`) or made in `seconds`."""

    result: Result
    cached: bool
    seconds: float


def run_cached(
    store: ArtifactStore, stage: str, key: Mapping[str, object], kind: type[Result], produce: Callable[[Path], Result]
) -> StageResult[Result]:
    """Return the result recorded under `key`, or have it produced, in a scratch folder of the store, and record it.

    `key` is everything the result depends on, as JSON values. It is stored in full beside the result and compared
    in full, so that neither a collision nor an edited record can hand out another stage's result. A record whose
    artifacts are gone counts as absent.
    """
    key = json.loads(canonical_json(key))  # as it is read back: a tuple is a list there
    key_digest = digest_json({"stage": stage, **key}).removeprefix("sha256:")
    started = time.perf_counter()
    with store.lock(stage, key_digest):
        found = _find(store, stage, key_digest, key, kind)
        if found is not None:
            return StageResult(found, cached=True, seconds=time.perf_counter() - started)
        with store.scratch() as folder:
            result = produce(folder)
        content = result.model_dump(mode="json")
        history = _history(store.read_record(stage, key_digest))
        kept = {"key": dict(key), "result": content, "digest": digest_json(content)}
        store.write_record(stage, key_digest, {**kept, "discarded": history} if history else kept)
    return StageResult(result, cached=False, seconds=time.perf_counter() - started)


def discard_cached(store: ArtifactStore, stage: str, key: Mapping[str, object], why: Mapping[str, object]) -> bool:
    """Throw the result under `key` away, once for each `why`; return whether that was done, now or before.

    Which result it was and why it went stands from then on in the record, beside the result that takes its place; so
    that a run that was killed after it goes on from what it has made since.
    """
    key = json.loads(canonical_json(key))
    key_digest = digest_json({"stage": stage, **key}).removeprefix("sha256:")
    with store.lock(stage, key_digest):
        record = store.read_record(stage, key_digest)
        if record is None:
            return False
        history = _history(record)
        if any(entry.items() >= dict(why).items() for entry in history):
            return True
        if "result" not in record:
            return False
        gone = {**why, "result": record.get("digest")}
        store.write_record(stage, key_digest, {"discarded": [*history, gone]})
    return True


def _history(record: Mapping[str, object] | None) -> list[dict[str, object]]:
    """What a record says of results that were thrown away."""
    found = (record or {}).get("discarded")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _find(
    store: ArtifactStore, stage: str, key_digest: str, key: Mapping[str, object], kind: type[Result]
) -> Result | None:
    record = store.read_record(stage, key_digest)
    if record is None or record.get("key") != dict(key):
        return None
    try:
        if record.get("digest") != digest_json(record.get("result")):
            return None
        result = kind.model_validate(record.get("result"))
    except ValueError:  # no JSON number, or no such result
        return None
    return result if all(store.contains(artifact) for artifact in artifacts_in(result)) else None


def artifacts_in(value: object) -> Iterator[Artifact]:
    """Every artifact that a result refers to, at any depth."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from artifacts_in(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from artifacts_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from artifacts_in(item)
