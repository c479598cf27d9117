"""Stage 4, on the target: the engine's outputs against the stored reference outputs, shard by shard."""

from __future__ import annotations

import functools
import itertools
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import validation
from tasks.backends import backend_for
from tasks.backends.compatibility import refuse_elsewhere
from tasks.child import call_in_child
from tasks.data import load_arrays, save_shard, shard_paths
from tasks.digests import digest_file, digest_json
from tasks.errors import StageError
from tasks.feeds import split_batches
from tasks.memo import Remembered, remember
from tasks.records import ComparedEngine
from tasks.specs import Dim, Frozen, OutputDeclaration
from validation.comparison import Comparison, ComparisonResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.backends.interface import Engine
    from tasks.data import Arrays
    from tasks.records import BuiltEngine, EngineJob
    from tasks.workbench import Workbench

RECIPE = 3
SLICE = "slice."


class CompareRequest(Frozen):
    """What the child compares; paths are folders of this host, with shards alike in number and order."""

    target: str
    plan: str
    inputs: str
    annotations: str
    reference: str
    candidate: str
    outputs: dict[str, OutputDeclaration]
    ranges: dict[str, tuple[float, float]]
    batch: Dim


class CompareReply(Frozen):
    """The comparison, and the child's largest resident memory in bytes."""

    comparison: ComparisonResult
    peak_memory_bytes: int


def compare_engine(bench: Workbench, job: EngineJob, engine: BuiltEngine) -> Remembered[ComparedEngine]:
    """Run the engine on the validation data and compare with the reference, in a child process.

    Memory holds one shard and the accumulators of `validation.comparison`: some 9 bytes for each pair of a score, and
    a fixed amount for outputs of other kinds, however many samples there are.

    Raises:
        RefusedError: the engine was built for another GPU or runtime than this host's.
        StageError: the engine cannot be loaded, or it crashes while it runs.
    """
    spec, cell, data, reference = job.spec, job.cell, job.data, job.reference
    refuse_elsewhere(engine.backend, backend_for(cell.target).identity())
    batch = spec.dims[spec.batch_dim]
    key: dict[str, object] = {
        "recipe": RECIPE,
        "statistics": _statistics_digest(),
        "plan": engine.plan.digest,
        "backend": engine.backend.model_dump(),
        "inputs": data.inputs.digest,
        "annotations": data.annotations.digest,
        "reference": reference.outputs.digest,
        "outputs": {name: output.model_dump(mode="json") for name, output in spec.outputs.items()},
        "batch": batch.model_dump(),
    }

    def produce() -> ComparedEngine:
        with bench.store.scratch() as folder:
            (folder / "candidate").mkdir()
            request = CompareRequest(
                target=cell.target,
                plan=str(bench.store.fetch(engine.plan, folder / "plan")),
                inputs=str(bench.store.fetch(data.inputs, folder / "inputs")),
                annotations=str(bench.store.fetch(data.annotations, folder / "annotations")),
                reference=str(bench.store.fetch(reference.outputs, folder / "reference")),
                candidate=str(folder / "candidate"),
                outputs=spec.outputs,
                ranges=reference.ranges,
                batch=batch,
            )
            reply = call_in_child(
                "tasks.compare:compare_in_child",
                request,
                CompareReply,
                folder,
                time_limit_s=bench.time_limit_s,
                on_progress=bench.on_progress,
            )
            return ComparedEngine(
                plan=engine.plan.digest,
                outputs=bench.store.put(folder / "candidate"),
                comparison=reply.comparison,
                peak_memory_bytes=reply.peak_memory_bytes,
            )

    return remember(bench.store, "compare", key, ComparedEngine, produce)


@functools.cache
def _statistics_digest() -> str:
    """Digest of the code that measures: figures of an older one are not to be judged by newer rules."""
    folder = Path(validation.__file__).parent
    sources = {path.name: digest_file(path)[0] for path in sorted(folder.glob("*.py"))}
    return digest_json(sources | {name: metadata.version(name) for name in ("numpy", "scipy")})


def compare_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> CompareReply:
    """Child entry: compare as the request says."""
    request = CompareRequest.model_validate(payload)
    engine = backend_for(request.target).load(Path(request.plan))
    comparison = Comparison({name: output.as_output_spec() for name, output in request.outputs.items()}, request.ranges)
    shards = shard_paths(Path(request.inputs))
    sizes = itertools.cycle(request.batch.buckets or (request.batch.opt,))
    for number, path in enumerate(shards):
        candidate = run_shard(engine, load_arrays(path), request.batch, sizes)
        save_shard(Path(request.candidate), number, candidate)
        annotations = load_arrays(Path(request.annotations) / path.name)
        comparison.update(
            load_arrays(Path(request.reference) / path.name),
            candidate,
            slices={name.removeprefix(SLICE): a for name, a in annotations.items() if name.startswith(SLICE)},
        )
        progress(number + 1, len(shards))
    if (
        unused := engine.unused_plans()
    ):  # a plan that no sample has run is not judged, and must not be registered with those that are
        raise StageError(
            f"validation.data: no sample runs {', '.join(unused)}; add samples of such extents (and shards with"
            " more samples than the smaller batch buckets), or remove the bucket from dims"
        )
    return CompareReply(comparison=comparison.result(), peak_memory_bytes=peak_memory_bytes())


def run_shard(engine: Engine, shard: Arrays, batch: Dim, sizes: Iterator[int] | None = None) -> Arrays:
    """Outputs of a whole shard, run in batches of the `opt` size, or of `sizes` in turn.

    Raises:
        StageError: an output's shape differs between batches in more than the number of samples.
    """
    parts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for feeds, real in split_batches(shard, batch, sizes):
        fed = len(next(iter(feeds.values())))
        for name, array in engine.run(feeds).items():
            parts.setdefault(name, []).append(_without_filling(array, fed, real))
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise StageError(f"the engine's outputs cannot be joined over batches: {error}") from None


def _without_filling(array: np.ndarray[Any, Any], fed: int, real: int) -> np.ndarray[Any, Any]:
    # An output that has not one row for each sample stays as it is: cut to length, it would pass for a right one.
    return array[:real] if array.ndim and len(array) == fed else array


def peak_memory_bytes() -> int:
    """Largest resident memory of this process, in bytes.

    Read from /proc, because getrusage's figure is inherited from the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise StageError("/proc/self/status has no VmHWM; Enginegate runs on Linux")
