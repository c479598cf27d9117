"""Reads what serving hosts saw of a rollout: shards of pairs, and counts by arm.

Hosts write them once, below `RolloutAddress.shards`; a file may be anything all the same. One that is not what a host
writes is refused by name, and never half used.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError, model_validator

from tasks.declared import Frozen
from tasks.errors import RefusedError
from tasks.records import LONGEST_REASON
from tasks.store.digests import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from tasks.objects.interface import Entry, ObjectStore

    Array: TypeAlias = NDArray[Any]

PAIRS = re.compile(r"\d{6}-.+-(?P<samples>\d+)-[0-9a-f]+\.npz")
ARMS = re.compile(r"\d{6}-.+-arms-[0-9a-f]+\.json")
MOST_BYTES = 256 << 20
"""Of the arrays of a shard: an object has 16 MiB at most, and hosts do not compress."""
_COLUMNS = {"time": "f", "key": "U", "request": "U", "step": "i", "noise": "b", "failed": "U"}
_LATENCIES = ("latency.production", "latency.canary")
_FAILURES = ("", "error", "timeout")
_VALUES = "fiub"


@dataclass(frozen=True)
class RefusedFile:
    """A file that is not used, and why; `is_early` where it is of a step that was made after the history was read."""

    key: str
    why: str
    is_early: bool = False


@dataclass(frozen=True)
class PairShard:
    """Pairs of one file: n samples, of as many requests or fewer.

    `columns` are `time`, `key`, `request`, `step`, `noise`, `failed` and the latencies in ms, [n] each; `slices`,
    [n] text; `production` and `canary` the outputs, [n, …] by name, of the same shapes. `inputs` are kept where they
    may be.
    """

    key: str
    digest: str
    columns: Mapping[str, Array]
    slices: Mapping[str, Array]
    production: Mapping[str, Array]
    canary: Mapping[str, Array]
    inputs: Mapping[str, Array]

    @property
    def groups(self) -> Array:
        """[n] text: the user's hash, or the request where none is known."""
        keys = self.columns["key"]
        found: Array = np.where(keys == "", np.char.add("request ", self.columns["request"]), keys)
        return found


class _Histogram(Frozen):
    edges: Annotated[tuple[float, ...], Field(min_length=1)]
    counts: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _fit(self) -> _Histogram:
        if not np.isfinite(self.edges).all() or (np.diff(self.edges) <= 0).any():
            raise ValueError("edges do not rise")
        if len(self.counts) not in {len(self.edges) - 1, len(self.edges) + 1}:
            raise ValueError("counts do not fit the edges")
        return self


class Arm(Frozen):
    """What one engine answered: requests but for `warm_up`, of which some failed, and how long the others took.

    `crashed` is why a host could not bring the engine up, so that it answered nothing there.
    """

    requests: Annotated[int, Field(ge=0)]
    errors: Annotated[int, Field(ge=0)]
    timeouts: Annotated[int, Field(ge=0)]
    warm_up: Annotated[int, Field(ge=0)] = 0
    users: Annotated[int, Field(ge=0)] = 0
    latency_ms: _Histogram
    crashed: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)] | None = None


class Arms(Frozen):
    """Both arms."""

    production: Arm
    canary: Arm


class ArmDocument(Frozen):
    """What a host counted of one step in a period; see the names."""

    schema_version: Literal[1]
    step: Annotated[int, Field(ge=1)]
    from_: Annotated[float, Field(alias="from")]
    to: float
    arms: Arms
    lost_pairs: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class ArmShard:
    """The counts of one file."""

    key: str
    digest: str
    document: ArmDocument


Shard: TypeAlias = "PairShard | ArmShard"


class ShardError(RefusedError):
    """A file is not what a host writes; the message says why and does not name it."""


class EarlyError(ShardError):
    """A file is of a later step than is known."""


def in_order(entries: Collection[Entry]) -> list[Entry]:
    """The files in the order in which they are used: as they arrived by the store's clock, those of a second by key."""
    return sorted(entries, key=lambda entry: (entry.modified, entry.key))


def read_shard(
    objects: ObjectStore, key: str, outputs: Collection[str], steps: Collection[int], digest: str | None = None
) -> Shard | RefusedFile:
    """Read a file of a host.

    Args:
        objects: of the registry.
        key: of the file.
        outputs: names of the canary's outputs, all of which pairs have.
        steps: numbers of the rollout's steps; others belong to no stage of it.
        digest: what the file must have, where it was used before.

    Returns:
        Its content; or why it cannot be used.
    """
    try:
        found = objects.read(key)
        if found is None:
            raise ShardError("is missing")
        actual = digest_bytes(found.content)
        if digest is not None and actual != digest:
            raise ShardError(f"should have digest {digest}, but has {actual}")
        name = key.rpartition("/")[2]
        pairs = PAIRS.fullmatch(name)
        if pairs is not None:
            return _read_pairs(key, actual, found.content, int(pairs["samples"]), outputs, steps)
        if ARMS.fullmatch(name):
            return ArmShard(key, actual, _read_arms(found.content, steps))
        raise ShardError("has a name that no host gives")
    except RefusedError as error:
        return RefusedFile(key, str(error), isinstance(error, EarlyError))


def _read_arms(content: bytes, steps: Collection[int]) -> ArmDocument:
    try:
        document = ArmDocument.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError):
        raise ShardError("is no document of arms") from None
    _require_steps({document.step}, steps)
    return document


def _require_steps(found: Collection[int], steps: Collection[int]) -> None:
    strange = sorted(set(found) - set(steps))
    if strange:
        kind = EarlyError if strange[0] > max(steps, default=0) else ShardError
        raise kind(f"is of step {strange[0]}, which is none of this rollout")


def _read_pairs(
    key: str, digest: str, content: bytes, samples: int, outputs: Collection[str], steps: Collection[int]
) -> PairShard:
    arrays = _read_arrays(content)
    _require_columns(arrays, samples)
    production, canary = _outputs(arrays, "production."), _outputs(arrays, "canary.")
    for name in outputs:
        if name not in production or name not in canary:
            raise ShardError(f"lacks output {name} of an arm")
        if production[name].shape != canary[name].shape:
            raise ShardError(f"has output {name} in different shapes")
    _require_steps(set(arrays["step"].tolist()), steps)
    return PairShard(
        key,
        digest,
        columns={name: arrays[name] for name in (*_COLUMNS, *_LATENCIES)},
        slices={name: array.astype(str) for name, array in _below(arrays, "slice.").items()},
        production={name: production[name] for name in outputs},
        canary={name: canary[name] for name in outputs},
        inputs=_below(arrays, "input."),
    )


def _read_arrays(content: bytes) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(one.file_size for one in archive.infolist()) > MOST_BYTES:
                raise ShardError(f"has more than {MOST_BYTES >> 20} MiB of arrays")
            if archive.testzip() is not None:
                raise ShardError("is damaged")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError, zlib.error):
        raise ShardError("is no file of arrays, or damaged") from None


def _require_columns(arrays: Mapping[str, Array], samples: int) -> None:
    for name, kind in (*_COLUMNS.items(), *((name, "f") for name in _LATENCIES)):
        if name not in arrays:
            raise ShardError(f"lacks the column {name}")
        if arrays[name].dtype.kind != kind or arrays[name].ndim != 1:
            raise ShardError(f"has a column {name} of another kind")
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if lengths != {samples} or samples == 0:
        raise ShardError(f"has not {samples} rows in every column, as its name says")
    if not np.isfinite(arrays["time"]).all():
        raise ShardError("has a time that is none")
    if not set(arrays["failed"].tolist()) <= set(_FAILURES):
        raise ShardError(f"has a failure that is none of {', '.join(filter(None, _FAILURES))}")
    answered = arrays["failed"] == ""
    for name in _LATENCIES:
        latency = arrays[name][answered]
        if not (np.isfinite(latency).all() and (latency >= 0).all()):
            raise ShardError(f"has a {name} that is none")


def _outputs(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found = _below(arrays, prefix)
    for name, array in found.items():
        if array.dtype.kind not in _VALUES:
            raise ShardError(f"has output {name} of another kind than numbers")
    return found


def _below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
