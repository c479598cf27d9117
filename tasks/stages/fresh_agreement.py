"""Stage 4, on the target: the engine on inputs that are in no file, against what PyTorch gave on them.

The gate's rules judge the validation samples, which stand for production. Fresh inputs stand for nothing: they may lie
where a model was never trained. So the limits here are wide, and what they find is gross: an engine that knows the
validation samples by heart, a branch that the exporter fixed, a kernel that is wrong at another shape.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tasks.backends import backend_of
from tasks.declared import Dim, Frozen, InputSpec
from tasks.fresh_records import FreshAgreement, FreshArtifact, FreshFigure
from tasks.process.child import ignore_progress
from tasks.samples.feeds import run_shard
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.source_spec import PYTORCH
from tasks.specs import OutputDeclaration, Precision
from tasks.stages.again import discard_before
from tasks.stages.corners import run_at_corners
from tasks.store.stage_cache import StageResult, run_cached
from validation.misfits import DECISIONS, classes_last, decisions_of
from validation.outputs import OutputKind
from validation.rules import limit_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.backends.interface import Engine
    from tasks.process.context import StageContext
    from tasks.records import BuiltEngine, EngineJob

    Array = np.ndarray[Any, Any]

RECIPE = 2
MEAN_ERROR = "mean |error| as a share of the range"
RELATIVE_L2 = "relative L2 error"
VARIATION = "mean total variation of the probabilities"
COSINE = "mean 1 - cosine"
DISAGREEMENT = "share of labels that are not the reference's"

# FP32, FP16, INT8; `limit_at` has those of the others. Each is some five times what the default policy lets the same
# kind of output err on the validation samples (`validation.policy`); README, "Inputs that are in no file", has the
# table, and what was measured.
LIMITS: dict[str, tuple[float, float, float]] = {
    MEAN_ERROR: (0.005, 0.05, 0.10),
    RELATIVE_L2: (0.01, 0.10, 0.50),
    VARIATION: (0.005, 0.05, 0.10),
    COSINE: (0.0005, 0.005, 0.05),
    DISAGREEMENT: (0.025, 0.10, 0.30),  # a class is drawn by lot where a model was never trained
}


class TryRequest(Frozen):
    """What the child runs; paths are folders. Outputs go to `candidate`, sharded as `inputs`.

    With `declared`, the model's inputs, the engine also runs at every check shape of `dims`.
    """

    runtime: str
    precision: Precision
    plan: Path
    inputs: Path
    reference: Path
    candidate: Path
    draws: tuple[str, ...]
    batch: Dim
    outputs: dict[str, OutputDeclaration]
    declared: dict[str, InputSpec] = Field(default_factory=dict)
    dims: dict[str, Dim] = Field(default_factory=dict)


class Tried(Frozen):
    """The child's figures."""

    figures: tuple[FreshFigure, ...]


def try_on_fresh(
    context: StageContext, job: EngineJob, engine: BuiltEngine, fresh: FreshArtifact
) -> StageResult[FreshAgreement]:
    """Run the engine on inputs that are in no file, and at every check shape, and compare with the reference.

    Raises:
        StageError: the engine cannot be loaded, it does not run at a shape within dims, or it crashes while it runs.
    """
    batch = job.spec.dims[job.spec.batch_dim]
    key: dict[str, object] = {
        "recipe": RECIPE,
        "plan": engine.plan.digest,
        "backend": engine.backend.model_dump(),
        "inputs": fresh.inputs.digest,
        "reference": fresh.outputs.digest,
        "draws": list(fresh.draws),
        "batch": batch.model_dump(),
        "dims": {name: dim.model_dump() for name, dim in job.spec.dims.items()},
        "outputs": {name: output.model_dump(mode="json") for name, output in job.spec.outputs.items()},
        "precision": job.cell.precision.value,
    }

    def produce(folder: Path) -> FreshAgreement:
        (folder / "candidate").mkdir()
        request = TryRequest(
            runtime=job.cell.runtime,
            precision=job.cell.precision,
            plan=context.store.fetch(engine.plan, folder / "plan"),
            inputs=context.store.fetch(fresh.inputs, folder / "inputs"),
            reference=context.store.fetch(fresh.outputs, folder / "reference"),
            candidate=folder / "candidate",
            draws=fresh.draws,
            batch=batch,
            outputs=job.spec.outputs,
            declared=job.spec.inputs,
            dims=job.spec.dims,
        )
        entry = "tasks.stages.fresh_agreement:run_in_child"
        tried = context.call_in_child(entry, request, Tried, folder, on_progress=ignore_progress)
        return FreshAgreement(
            outputs=context.store.put(folder / "candidate"), figures=_against(tried.figures, job.spec.reference)
        )

    discard_before(context, job, "try fresh", key)
    return run_cached(context.store, "try fresh", key, FreshAgreement, produce)


def _against(figures: tuple[FreshFigure, ...], reference: str) -> tuple[FreshFigure, ...]:
    """Figures with the name of what the engine was compared with, where that is not PyTorch."""
    return tuple(
        figure.model_copy(update={"against": reference}) if figure.against == PYTORCH else figure for figure in figures
    )


def find_disagreements(agreement: FreshAgreement, precision: Precision) -> tuple[str, ...]:
    """What makes an engine fail whatever its policy says, a sentence for each output that does not agree."""
    worst: dict[str, FreshFigure] = {}
    for figure in agreement.figures:
        if not figure.ok and (figure.output not in worst or _excess(figure) > _excess(worst[figure.output])):
            worst[figure.output] = figure
    return tuple(
        f"output {name}: differs from {figure.against} on inputs that are in no file: on {figure.samples} samples"
        f" {figure.draw}, {_told(figure)} at {precision.value}; where its rules pass on the validation samples, the"
        " exporter took in a branch or a table of theirs, or it is wrong at another shape"
        for name, figure in worst.items()
    )


def _excess(figure: FreshFigure) -> float:
    return np.inf if figure.value is None else figure.value / figure.limit


def _told(figure: FreshFigure) -> str:
    if figure.value is None:
        return f"it gives NaN, Inf, nothing or another shape, and {figure.against} does not,"
    return f"{figure.measure} is {figure.value:.3g}, and {figure.limit:g} is the most"


def run_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> Tried:
    """Child entry: serve a TryRequest."""
    request = TryRequest.model_validate(payload)
    engine = backend_of(request.runtime).load(request.plan)
    sizes = itertools.cycle(request.batch.buckets or (request.batch.opt,))
    sums: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    shards = shard_paths(request.inputs)
    for number, (path, draw) in enumerate(zip(shards, request.draws, strict=True)):
        inputs, reference = load_arrays(path), load_arrays(request.reference / path.name)
        found = run_shard(engine.run, inputs, request.batch, sizes)
        save_shard(request.candidate, number, found)
        for name, output in request.outputs.items():
            keep = None if output.mask is None else inputs[output.mask]
            sums[name, draw].add(output, reference[name], found.get(name), keep)
        progress(number + 1, len(shards))
    precision = request.precision.value
    figures = [one.figure(name, draw, request.outputs[name], precision) for (name, draw), one in sums.items()]
    return Tried(figures=(*figures, *_corner_figures(request, engine, precision)))


def _corner_figures(request: TryRequest, engine: Engine, precision: str) -> Iterator[FreshFigure]:
    if not request.declared:
        return
    against = f"itself in batches of {request.batch.opt}"
    for run in run_at_corners(engine, request.declared, request.dims, request.inputs, request.candidate):
        for name in run.expected.keys() & request.outputs.keys():
            one, output = _Sum(), request.outputs[name]
            keep = None if output.mask is None else run.inputs[output.mask]
            one.add(output, run.expected[name], run.found.get(name), keep)
            yield one.figure(name, run.way, output, precision).model_copy(update={"against": against})


class _Sum:
    """Errors of one output on the inputs that were made in one way, added up over shards."""

    def __init__(self) -> None:
        self.error = self.weight = 0.0
        self.samples, self.is_comparable = 0, True

    def add(self, output: OutputDeclaration, reference: Array, found: Array | None, mask: Array | None) -> None:
        """Take in a shard. `mask` is zero where the output counts for nothing."""
        self.samples += len(reference)
        if found is None or found.shape != reference.shape or not np.isfinite(_kept(found, mask)).all():
            self.is_comparable = False
            return
        if measure_of(output) == DISAGREEMENT:
            differ = _differ(output, found, reference, mask)
            self.error += float(differ.sum())
            self.weight += differ.size
            return
        ours, theirs = (
            _kept(classes_last(output.as_output_spec(), side), mask).astype(np.float64) for side in (found, reference)
        )
        if measure_of(output) == RELATIVE_L2:
            self.error += float(np.square(ours - theirs).sum())
            self.weight += float(np.square(theirs).sum())
            return
        errors = _errors(output, ours, theirs)
        self.error += float(errors.sum())
        self.weight += errors.size

    def figure(self, name: str, draw: str, output: OutputDeclaration, precision: str) -> FreshFigure:
        """The figure of all shards."""
        measure, value = measure_of(output), None
        if self.is_comparable:
            # JSON has no infinity: beside a reference of zeros, an error is as large as numbers get.
            value = self.error / self.weight if self.weight else sys.float_info.max * (self.error > 0)
            value = float(np.sqrt(value)) if measure == RELATIVE_L2 else value
        limit = limit_at(LIMITS[measure], precision)
        return FreshFigure(output=name, draw=draw, samples=self.samples, measure=measure, value=value, limit=limit)


def measure_of(output: OutputDeclaration) -> str:
    """What agreement of an output is measured by: a key of LIMITS."""
    if output.kind is OutputKind.SCORE and output.range is not None:
        return MEAN_ERROR
    if output.kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LANGUAGE}:
        return VARIATION
    if output.kind in DECISIONS:
        return DISAGREEMENT
    return COSINE if output.kind is OutputKind.EMBEDDING else RELATIVE_L2


def _differ(output: OutputDeclaration, ours: Array, theirs: Array, mask: Array | None) -> Array:
    """Of what is decided, whether it differs from the reference's."""
    spec = output.as_output_spec()
    own, other = (decisions_of(spec, classes_last(spec, side)) for side in (ours, theirs))
    return np.asarray(_kept(own, mask) != _kept(other, mask))


def _kept(array: Array, mask: Array | None) -> Array:
    """What a mask leaves: of positions, where it has their shape; of samples, where it has one value for each."""
    if mask is None or mask.shape != array.shape[: mask.ndim]:
        return array
    return np.asarray(array[mask != 0])


def _errors(output: OutputDeclaration, ours: Array, theirs: Array) -> Array:
    if output.kind is OutputKind.SCORE:
        low, high = output.range or (0.0, 1.0)
        return np.asarray(np.abs(ours - theirs) / (high - low))
    if output.kind is OutputKind.EMBEDDING:
        return _apart(ours, theirs)
    own, other = (_probabilities(side, logits=output.kind is not OutputKind.PROBABILITIES) for side in (ours, theirs))
    return np.asarray(0.5 * np.abs(own - other).sum(axis=-1))


def _apart(ours: Array, theirs: Array) -> Array:
    """1 - cosine over the last axis; of a vector without length 0 where both are without, else 1."""
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    same = (ours == theirs).all(axis=-1)
    products = (ours * theirs).sum(axis=-1)
    return np.asarray(1 - np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), same))


def _probabilities(values: Array, *, logits: bool) -> Array:
    """Over the last axis; one number a sample is that of one of two classes."""
    if values.ndim < 2 or values.shape[-1] == 1:  # noqa: PLR2004 - samples and classes
        own = values.reshape(-1)
        own = 1 / (1 + np.exp(-own.clip(-500, 500))) if logits else own
        return np.stack([own, 1 - own], axis=-1)
    if not logits:
        return values
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
