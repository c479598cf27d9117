"""How far a quantized graph's outputs lie from the exported one's, by the metrics that the gate judges.

The loss of a rule is the share of what its limit allows that is used up: |value - ideal| / |limit - ideal|, so that 1
is exactly at the limit, whatever the metric. Of a metric that counts samples, like the K-S distance, one of n samples
is free: a candidate that merely differs has D = 1/n, and so few samples would hide all other metrics behind that step.
The loss of a graph is the largest of its rules, those of the default policy for INT8 on all samples. Plain values are
taken, not bounds: a loss ranks graphs that saw the same samples, and the gate decides.
"""

from __future__ import annotations

import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.declared import Frozen
from tasks.quantization.interface import rows_in
from tasks.samples.feeds import run_shard
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.specs import ModelSpec, OutputDeclaration
from tasks.store.digests import statistics_digest
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.metrics import METRICS
from validation.policy import default_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from validation.rules import Rule

RECIPE = 1
LOSS_SAMPLES = 256
RESAMPLES = 16  # of bounds that nobody reads


class RuleLoss(Frozen):
    """A rule's metric, its value, and the loss; both None where the metric is undefined, which is an infinite loss.

    Of a score with several columns they are those of the worst.
    """

    output: str
    metric: str
    limit: float
    value: float | None
    loss: float | None


class Loss(Frozen):
    """The loss of a graph on `samples` samples; `loss` is None where it is infinite.

    `rules` are those that so few samples can tell, the worst first. `defects` say why outputs could not be compared.
    """

    loss: float | None
    rules: tuple[RuleLoss, ...]
    defects: tuple[str, ...]
    samples: int

    @property
    def rank(self) -> tuple[float, float]:
        """The less, the closer: the loss, and the mean loss of all rules, which decides between equals."""
        losses = [_number(rule.loss) for rule in self.rules]
        return _number(self.loss), sum(losses) / len(losses) if losses else math.inf

    @property
    def text(self) -> str:
        """The loss for people: a number, or `infinite` and why."""
        if self.loss is not None:
            return f"{self.loss:.4g}"
        undefined = [f"{rule.output} {rule.metric} is undefined" for rule in self.rules if rule.loss is None]
        return f"infinite: {next(iter((*self.defects, *undefined)), 'no rule could be judged')}"


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss


class LossRequest(Frozen):
    """Two graphs and the samples to run them on: two files and a folder of shards."""

    exported: Path
    quantized: Path
    samples: Path
    spec: ModelSpec
    most_samples: int = LOSS_SAMPLES


def loss_in_child(raw: dict[str, Any], progress: Callable[[int, int], None]) -> Loss:
    """Child entry: serve a LossRequest. One shard and its outputs are in memory at a time."""
    request = LossRequest.model_validate(raw)
    exported, quantized = (open_graph(path) for path in (request.exported, request.quantized))
    spec = request.spec
    meter, batch = LossMeter(spec.outputs), spec.dims[spec.batch_dim]
    for shard, done, total in take_evenly(request.samples, request.most_samples):
        right, found = (run_shard(graph, shard, batch) for graph in (exported, quantized))
        meter.update(right, found, shard)
        progress(done, total)
    return meter.result()


def open_graph(path: Path) -> Callable[[Arrays], Arrays]:
    """What runs a batch through an ONNX file, in ONNX Runtime on the CPU at its default level of optimisation."""
    from tasks.backends.ort import OnnxRuntimeEngine  # noqa: PLC0415 - loads native libraries, which only children shall

    return OnnxRuntimeEngine(path).run


def take_evenly(folder: Path, most: int) -> Iterator[tuple[Arrays, int, int]]:
    """Yield at most `most` samples of a folder of shards, evenly by position, as (shard, shards done, shards in all).

    Shards without a chosen sample are not read.
    """
    paths = shard_paths(folder)
    ends = np.cumsum([rows_in(path) for path in paths])
    total = int(ends[-1])
    chosen = np.arange(min(most, total)) * total // min(most, total)
    for number, (path, end) in enumerate(zip(paths, ends.tolist(), strict=True)):
        start = int(ends[number - 1]) if number else 0
        rows = chosen[(chosen >= start) & (chosen < end)] - start
        if len(rows):
            yield {name: array[rows] for name, array in load_arrays(path).items()}, number + 1, len(paths)


class LossMeter:
    """Takes batches of both graphs' outputs, and measures the loss of the second. See `Comparison`."""

    def __init__(self, outputs: Mapping[str, OutputDeclaration]) -> None:
        self._outputs = outputs
        specs = {name: output.as_output_spec() for name, output in outputs.items()}
        self._comparison = Comparison(specs, plan=Bootstrap(resamples=RESAMPLES))

    def update(self, exported: Arrays, quantized: Arrays, inputs: Arrays) -> None:
        """Take in one batch: outputs of both graphs by name, and the inputs, of which some may be masks."""
        masks = {output.mask: inputs[output.mask] for output in self._outputs.values() if output.mask is not None}
        self._comparison.update(exported, quantized, masks=masks)

    def result(self) -> Loss:
        """The loss of all batches so far."""
        return judge_loss(loss_rules(self._outputs), self._comparison.result())


def loss_rules(outputs: Mapping[str, OutputDeclaration]) -> tuple[Rule, ...]:
    """The rules of the default policy for INT8 on all samples."""
    return default_policy({name: output.as_output_spec() for name, output in outputs.items()}, "int8").rules


def judge_loss(rules: Iterable[Rule], result: ComparisonResult) -> Loss:
    """The loss of what was measured, by these rules. A rule whose metric needs more samples than there are is left out.

    It is infinite where an output could not be compared, a metric is undefined or no rule is left.
    """
    found = [loss for rule in rules if (loss := _rule_loss(rule, result)) is not None]
    found.sort(key=lambda rule: -_number(rule.loss))
    known = not result.defects and found and found[0].loss is not None
    return Loss(
        loss=found[0].loss if known else None, rules=tuple(found), defects=result.defects, samples=result.samples
    )


def _rule_loss(rule: Rule, result: ComparisonResult) -> RuleLoss | None:
    metric = METRICS[rule.metric]
    measured = [m for m in result.measurements if (m.output, m.metric, m.slice) == (rule.output, rule.metric, None)]
    measured = [m for m in measured if m.column is not None] or measured  # the whole repeats the worst column's
    if any(0 < m.n < metric.least_n for m in measured):
        return None
    losses = [_share_used(rule, m) for m in measured]
    worst = max(range(len(losses)), key=lambda index: _number(losses[index]), default=None)
    return RuleLoss(
        output=rule.output,
        metric=rule.metric,
        limit=rule.limit,
        value=None if worst is None or losses[worst] is None else measured[worst].value,
        loss=None if worst is None else losses[worst],
    )


def _share_used(rule: Rule, m: Measurement) -> float | None:
    if m.value is None or not math.isfinite(m.value):
        return None
    metric = METRICS[rule.metric]
    free = 1 / m.n if metric.share else 0.0
    return max(0.0, abs(m.value - metric.ideal) - free) / abs(rule.limit - metric.ideal)


def loss_key(outputs: Mapping[str, OutputDeclaration]) -> dict[str, object]:
    """What a loss depends on beside graphs and samples, for cache keys: outputs, limits, and the code that measures."""
    return {
        "recipe": RECIPE,
        "outputs": {name: output.model_dump(mode="json") for name, output in outputs.items()},
        "limits": [[rule.output, rule.metric, rule.limit] for rule in loss_rules(outputs)],
        "statistics": statistics_digest(),
        "onnxruntime": metadata.version("onnxruntime"),
    }
