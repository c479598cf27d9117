"""The tactics of builds that passed the gate, by build key: the next build under that key is led to the same kernels.

They lie in the artifact store, in a record of their own: what `convert --again` throws away does not take them along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.artifact import Artifact

if TYPE_CHECKING:
    from tasks.records import BuiltEngine
    from tasks.store.interface import ArtifactStore

PINNED = "pinned-tactics"


def pin_tactics(store: ArtifactStore, key: str, engine: BuiltEngine) -> None:
    """Keep the tactics of an engine that passed under `key`, the cache key of the first build of its job."""
    if engine.tactics is not None:
        record = {"tactics": engine.tactics.model_dump(mode="json"), "plan": engine.plan.digest}
        store.write_record(PINNED, _name(key), record)


def find_pinned(store: ArtifactStore, key: str) -> Artifact | None:
    """The tactics that are pinned under a build's cache key; None where there are none, or they are gone."""
    record = store.read_record(PINNED, _name(key))
    try:
        found = None if record is None else Artifact.model_validate(record.get("tactics"))
    except ValidationError:
        return None
    return found if found is not None and store.contains(found) else None


def _name(key: str) -> str:
    return key.removeprefix("sha256:")
