"""A few samples to try an engine on where it serves: taken when it is registered, run by whoever pulls it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends import backend_of
from tasks.declared import Dim, Frozen
from tasks.errors import StageError
from tasks.process.child import call_in_child, ignore_progress
from tasks.records import SmokeArtifact
from tasks.samples.differences import are_whole, largest_difference
from tasks.samples.feeds import run_shard, split_batches
from tasks.samples.npz import Arrays, load_arrays, save_shard, shard_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.artifact import Artifact
    from tasks.store.interface import ArtifactStore

MOST_SHARDS = 4
SAMPLES_A_SHARD = 4
# The same engine on the same kind of device repeats itself but for the order of its sums. A wrong library, a broken
# device or another engine's plan is out by far more.
SLACK = 2.0
LEAST_ALLOWED = 1e-3


class SmokeRequest(Frozen):
    """What the child runs; paths are folders of this host, and `batch` is the model's batch dimension.

    The caller has checked the digests of `plan`, and that its runtime is here. `smoke` holds `inputs`, `reference` and
    `candidate`, each a folder of shards.
    """

    runtime: str
    plan: Path
    smoke: Path
    batch: Dim


class SmokeError(Frozen):
    """Largest |engine - reference| of one output: `here`, as `compared`, and the most that is `allowed`.

    `here` is None where an output is missing, has another shape or is not finite where the reference is.
    """

    output: str
    here: float | None
    compared: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the engine does here what it did when it was compared."""
        return self.here is not None and self.here <= self.allowed

    @property
    def sentence(self) -> str:
        """The error here, the error when it was compared, and what is allowed."""
        here = "missing, not finite or of another shape" if self.here is None else f"largest error {self.here:.3g}"
        return f"{self.output}: {here} (was {self.compared:.3g} when compared; {self.allowed:.3g} is allowed)"


class SmokeReport(Frozen):
    """How an engine did on its smoke inputs, output by output.

    `first_ms` is how long its first call took, inputs and outputs included, and `warm_ms` the next one with the same
    inputs, in milliseconds.
    """

    samples: int
    errors: tuple[SmokeError, ...]
    first_ms: float
    warm_ms: float

    @property
    def ok(self) -> bool:
        """Whether every output is as it should be, and there is one."""
        return bool(self.errors) and all(error.ok for error in self.errors)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, a sentence for each output; none if all is well."""
        if not self.errors:
            return ("the smoke data holds no output to compare with",)
        return tuple(error.sentence for error in self.errors if not error.ok)


@dataclass(frozen=True)
class SmokeSource:
    """Artifacts that are sharded alike: inputs, and the outputs of the reference and of the engine on them."""

    inputs: Artifact
    reference: Artifact
    candidate: Artifact


@dataclass(frozen=True)
class SmokeShards:
    """What lies in a folder of smoke data, shard by shard."""

    inputs: list[Arrays]
    reference: list[Arrays]
    candidate: list[Arrays]


def take_smoke(store: ArtifactStore, *sources: SmokeSource) -> SmokeArtifact:
    """Keep the first samples of a few shards, evenly spread, of each source: validation data, and inputs in no file."""
    with store.scratch() as folder:
        taken, samples = {}, 0
        for name in ("inputs", "reference", "candidate"):
            (folder / f"smoke-{name}").mkdir()
            kept = [
                {key: array[:SAMPLES_A_SHARD] for key, array in load_arrays(path).items()}
                for number, source in enumerate(sources)
                for path in _spread(shard_paths(store.fetch(getattr(source, name), folder / f"{name}-{number}")))
            ]
            for number, shard in enumerate(kept):
                save_shard(folder / f"smoke-{name}", number, shard)
            samples = sum(len(next(iter(shard.values()))) for shard in kept)
            taken[name] = store.put(folder / f"smoke-{name}")
        return SmokeArtifact(**taken, samples=samples)


def _spread(shards: list[Path]) -> list[Path]:
    """A few of so many shards, the first and the last among them."""
    places = np.linspace(0, len(shards) - 1, min(len(shards), MOST_SHARDS))
    return [shards[number] for number in sorted({round(place) for place in places})]


def run_smoke(request: SmokeRequest, scratch: Path, time_limit_s: float) -> SmokeReport:
    """Load an engine in a child process, to which `scratch` is left, run its smoke inputs and compare.

    Raises:
        StageError: the engine cannot be loaded or crashes.
    """
    return call_in_child("tasks.release.smoke:run_in_child", request, SmokeReport, scratch, time_limit_s=time_limit_s)


def run_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> SmokeReport:
    """Child entry: run the engine as the request says.

    Raises:
        StageError: the engine cannot be loaded or run, or the smoke data is not sharded alike.
    """
    request = SmokeRequest.model_validate(payload)
    shards = read_smoke(request.smoke)
    engine = backend_of(request.runtime).load(request.plan)
    return try_on_smoke(engine.run, shards, request.batch, progress)


def read_smoke(smoke: Path) -> SmokeShards:
    """The shards in a folder of smoke data.

    Raises:
        StageError: it is not sharded alike, or holds nothing.
    """
    inputs, reference, candidate = (_load(smoke / name) for name in ("inputs", "reference", "candidate"))
    if not len(inputs) == len(reference) == len(candidate) >= 1:
        raise StageError(
            f"the smoke data has {len(inputs)} shards of inputs, {len(reference)} of the reference and"
            f" {len(candidate)} of the engine, which should be as many and one at least; convert the model again"
        )
    return SmokeShards(inputs, reference, candidate)


def try_on_smoke(
    run: Callable[[Arrays], Arrays],
    shards: SmokeShards,
    batch: Dim,
    progress: Callable[[int, int], None] = ignore_progress,
) -> SmokeReport:
    """Give smoke inputs to whatever runs an engine, and compare as `--check` does.

    Raises:
        StageError: `run` fails.
    """
    inputs, reference, candidate = shards.inputs, shards.reference, shards.candidate
    first_ms, warm_ms = (_time_call(run, inputs[0], batch) for _ in range(2))
    sizes = itertools.cycle(batch.buckets or (batch.opt,))  # as it was compared, plan by plan
    found: list[Arrays] = []
    for shard in inputs:
        found.append(run_shard(run, shard, batch, sizes))
        progress(len(found), len(inputs))
    return SmokeReport(
        samples=sum(len(next(iter(shard.values()))) for shard in inputs),
        errors=tuple(_error(name, found, reference, candidate) for name in reference[0]),
        first_ms=first_ms,
        warm_ms=warm_ms,
    )


def _load(folder: Path) -> list[Arrays]:
    return [load_arrays(path) for path in shard_paths(folder)]


def _time_call(run: Callable[[Arrays], Arrays], shard: Arrays, batch: Dim) -> float:
    feeds, _ = next(split_batches(shard, batch))
    started = time.perf_counter()
    run(feeds)
    return 1000 * (time.perf_counter() - started)


def _error(name: str, found: list[Arrays], reference: list[Arrays], candidate: list[Arrays]) -> SmokeError:
    compared = _largest_error(name, candidate, reference)
    if compared is None:  # it was wrong already when it was compared: nothing says what it should do here
        return SmokeError(output=name, here=None, compared=0.0, allowed=0.0)
    allowed = max(SLACK * compared, LEAST_ALLOWED * _largest_value(name, reference))
    return SmokeError(output=name, here=_largest_error(name, found, reference), compared=compared, allowed=allowed)


def _largest_value(name: str, shards: list[Arrays]) -> float:
    """The largest finite magnitude of an output, 1 of whole numbers: an infinite one would allow any error."""
    if are_whole(shards[0][name]):
        return 1.0
    values = [shard[name].astype(np.float64) for shard in shards]
    return max(float(np.max(np.abs(value[np.isfinite(value)]), initial=0.0)) for value in values)


def _largest_error(name: str, found: list[Arrays], reference: list[Arrays]) -> float | None:
    """Largest |found - reference| over all shards, where both are finite; None where one cannot be compared.

    Of whole numbers, and of true and false, it is the share of elements that differ.
    """
    largest = 0.0
    for shard, right in zip(found, reference, strict=True):
        error = _shard_error(shard.get(name), right[name])
        if error is None:
            return None
        largest = max(largest, error)
    return largest


def _shard_error(found: np.ndarray[Any, Any] | None, reference: np.ndarray[Any, Any]) -> float | None:
    if found is None or found.shape != reference.shape:
        return None
    if are_whole(reference):
        return largest_difference(found, reference)
    ours, theirs = found.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return None
    return float(np.max(np.abs(ours[finite] - theirs[finite]), initial=0.0))
