"""Stage 4, on the target: the engine's outputs on the validation data, and how they compare with the reference's.

Three steps, each remembered and each in a child process: run the engine, measure its outputs, and try it on inputs that
are in no file. A policy with other slices, confidence or resamples is measured anew without the engine; one with other
limits needs no work at all.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifact import Artifact
from tasks.backends import backend_of
from tasks.backends.compatibility import SHARED, refuse_elsewhere
from tasks.declared import Dim, Frozen
from tasks.errors import StageError
from tasks.records import BuiltEngine, ComparedEngine, EngineJob
from tasks.samples.data_spec import LABEL, slices_in
from tasks.samples.feeds import run_shard
from tasks.samples.npz import Arrays, load_arrays, save_shard, shard_paths
from tasks.specs import OutputDeclaration
from tasks.stages.again import discard_before
from tasks.stages.fresh_agreement import find_disagreements, try_on_fresh
from tasks.stages.independence import load_groups
from tasks.store.digests import statistics_digest
from tasks.store.stage_cache import StageResult, run_cached
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.fresh_records import FreshAgreement
    from tasks.process.context import StageContext
    from validation.policy import Policy

RUN_RECIPE = 1
MEASURE_RECIPE = 1


class RunRequest(Frozen):
    """What the child runs; paths are folders. Outputs go to `candidate`, sharded as `inputs`."""

    runtime: str
    plan: Path
    inputs: Path
    candidate: Path
    batch: Dim


class CandidateOutputs(Frozen):
    """An engine's outputs on the validation data, and the largest resident memory of its process in bytes."""

    outputs: Artifact
    peak_memory_bytes: int


class MeasureRequest(Frozen):
    """What the child measures, and how; paths are folders of this host, with shards alike in number and order.

    `inputs` holds the masks, where an output names one, and `groups` the samples' groups, where they belong to any.
    `slices` are those of the policy: metrics by output and slice.
    """

    reference: Path
    candidate: Path
    annotations: Path
    inputs: Path | None
    outputs: dict[str, OutputDeclaration]
    slices: dict[str, dict[str, tuple[str, ...]]]
    confidence: float
    resamples: int
    groups: Path | None = None


class Measured(Frozen):
    """The comparison, and the child's largest resident memory in bytes."""

    comparison: ComparisonResult
    peak_memory_bytes: int


def compare_engine(context: StageContext, job: EngineJob, engine: BuiltEngine) -> StageResult[ComparedEngine]:
    """Run the engine on the validation data and compare with the reference; cached only if all of it was.

    An engine that does not agree on inputs that are in no file gets a defect, which fails its verdict. Memory holds one
    shard and the accumulators of `validation.comparison`, which keep a limited number of samples.

    Raises:
        RefusedError: the engine was built for another GPU or runtime than this host's.
        StageError: the engine cannot be loaded, it crashes while it runs, or no sample runs one of its plans.
    """
    here = backend_of(job.cell.runtime).identity()
    refuse_elsewhere(engine.backend, here, engine.options, job.cell.target)
    if SHARED in engine.options:  # its outputs are this GPU's, whichever built it
        engine = engine.model_copy(update={"backend": here})
    candidate = _run_engine(context, job, engine)
    measured = _measure(context, job, candidate.result.outputs)
    compared = ComparedEngine(
        plan=engine.plan.digest,
        outputs=candidate.result.outputs,
        comparison=measured.result.comparison,
        peak_memory_bytes=max(candidate.result.peak_memory_bytes, measured.result.peak_memory_bytes),
    )
    cached, seconds = candidate.cached and measured.cached, candidate.seconds + measured.seconds
    if job.reference.fresh is not None:
        tried = try_on_fresh(context, job, engine, job.reference.fresh)
        compared = _with_fresh(compared, tried.result, job)
        cached, seconds = cached and tried.cached, seconds + tried.seconds
    return StageResult(compared, cached=cached, seconds=seconds)


def _with_fresh(compared: ComparedEngine, fresh: FreshAgreement, job: EngineJob) -> ComparedEngine:
    defects = (*compared.comparison.defects, *find_disagreements(fresh, job.cell.precision))
    return compared.model_copy(update={"fresh": fresh, "comparison": replace(compared.comparison, defects=defects)})


def _run_engine(context: StageContext, job: EngineJob, engine: BuiltEngine) -> StageResult[CandidateOutputs]:
    batch = job.spec.dims[job.spec.batch_dim]
    key: dict[str, object] = {
        "recipe": RUN_RECIPE,
        "plan": engine.plan.digest,
        "backend": engine.backend.model_dump(),
        "inputs": job.data.inputs.digest,
        "batch": batch.model_dump(),
    }

    def produce(folder: Path) -> CandidateOutputs:
        (folder / "candidate").mkdir()
        request = RunRequest(
            runtime=job.cell.runtime,
            plan=context.store.fetch(engine.plan, folder / "plan"),
            inputs=context.store.fetch(job.data.inputs, folder / "inputs"),
            candidate=folder / "candidate",
            batch=batch,
        )
        peak_memory_bytes = context.call_in_child(
            "tasks.stages.compare:run_in_child",
            request,
            int,
            folder,
            on_progress=lambda done, total: context.on_progress(done, 2 * total),
        )
        outputs = context.store.put(folder / "candidate")
        return CandidateOutputs(outputs=outputs, peak_memory_bytes=peak_memory_bytes)

    discard_before(context, job, "run", key)
    return run_cached(context.store, "run", key, CandidateOutputs, produce)


def _measure(context: StageContext, job: EngineJob, candidate: Artifact) -> StageResult[Measured]:
    data, outputs = job.data, job.spec.outputs
    masks = data.inputs if any(output.mask for output in outputs.values()) else None
    plan = plan_of(job.policy)
    key: dict[str, object] = {
        "recipe": MEASURE_RECIPE,
        "statistics": statistics_digest(),
        "candidate": candidate.digest,
        "reference": job.reference.outputs.digest,
        "annotations": data.annotations.digest,
        "inputs": masks.digest if masks else None,
        **plan,
        "outputs": {name: output.model_dump(mode="json") for name, output in outputs.items()},
        **({"groups": job.groups.digest} if job.groups else {}),
    }

    def produce(folder: Path) -> Measured:
        request = MeasureRequest(
            reference=context.store.fetch(job.reference.outputs, folder / "reference"),
            candidate=context.store.fetch(candidate, folder / "candidate"),
            annotations=context.store.fetch(data.annotations, folder / "annotations"),
            inputs=context.store.fetch(masks, folder / "inputs") if masks else None,
            outputs=outputs,
            groups=context.store.fetch(job.groups, folder / "groups") if job.groups else None,
            **plan,
        )
        return context.call_in_child(
            "tasks.stages.compare:measure_in_child",
            request,
            Measured,
            folder,
            on_progress=lambda done, total: context.on_progress(total + done, 2 * total),
        )

    discard_before(context, job, "measure", key)
    return run_cached(context.store, "measure", key, Measured, produce)


def plan_of(policy: Policy) -> dict[str, Any]:
    """What a policy asks of the measurement: its limits are no part of it."""
    slices = {
        output: {name: tuple(sorted(metrics)) for name, metrics in slices.items()}
        for output, slices in policy.slices.items()
    }
    return {"slices": slices, "confidence": policy.confidence, "resamples": policy.resamples}


def run_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> int:
    """Child entry: serve a RunRequest; return the largest resident memory of this process in bytes."""
    request = RunRequest.model_validate(payload)
    engine = backend_of(request.runtime).load(request.plan)
    shards = shard_paths(request.inputs)
    sizes = itertools.cycle(request.batch.buckets or (request.batch.opt,))
    for number, path in enumerate(shards):
        save_shard(request.candidate, number, run_shard(engine.run, load_arrays(path), request.batch, sizes))
        progress(number + 1, len(shards))
    # A plan that no sample has run is not judged, and must not be registered with those that are.
    if unused := engine.unused_plans():
        raise StageError(
            f"validation.data: no sample runs {', '.join(unused)}; add samples of such extents (and shards with"
            " more samples than the smaller batch buckets), or remove the bucket from dims"
        )
    return peak_memory_bytes()


def measure_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> Measured:
    """Child entry: serve a MeasureRequest."""
    request = MeasureRequest.model_validate(payload)
    groups = None if request.groups is None else load_groups(request.groups)
    comparison = Comparison(
        {name: output.as_output_spec() for name, output in request.outputs.items()},
        by=request.slices,
        plan=Bootstrap(confidence=request.confidence, resamples=request.resamples),
        group_sizes=None if groups is None else groups.sizes,
    )
    shards = shard_paths(request.reference)
    for number, path in enumerate(shards):
        annotations = load_arrays(request.annotations / path.name)
        comparison.update(
            load_arrays(path),
            load_arrays(request.candidate / path.name),
            slices=slices_in(annotations),
            label=annotations.get(LABEL),
            masks=_masks(request, path.name),
            groups=None if groups is None else groups.batches[number],
        )
        progress(number + 1, len(shards))
    return Measured(comparison=comparison.result(), peak_memory_bytes=peak_memory_bytes())


def _masks(request: MeasureRequest, shard: str) -> Arrays:
    """The inputs of a shard that outputs name as their mask."""
    if request.inputs is None:
        return {}
    inputs = load_arrays(request.inputs / shard)
    return {output.mask: inputs[output.mask] for output in request.outputs.values() if output.mask is not None}


def peak_memory_bytes() -> int:
    """Largest resident memory of this process, in bytes.

    Read from /proc, because getrusage's figure is inherited from the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise StageError("/proc/self/status has no VmHWM; Enginegate runs on Linux")
