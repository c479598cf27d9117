"""Remarks on a policy: which of its rules an engine that gives exactly what PyTorch gives could not pass.

So it is not said twice what a rule needs: the gate's own measurement and decision are asked, of outputs that are equal,
on as many samples, groups and slices as the validation data have. The outputs are those of a few samples, repeated:
where nothing differs, their values hardly matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.checks.remarks import Remark, good, warning
from tasks.errors import StageError
from tasks.quantization.interface import rows_in
from tasks.samples.data_spec import LABEL
from tasks.samples.npz import Arrays, load_arrays, save_shard, shard_paths
from tasks.stages.compare import Measured, MeasureRequest, plan_of
from tasks.store.digests import statistics_digest
from tasks.store.stage_cache import run_cached
from tasks.torch_side.interface import MASK
from validation.metrics import METRICS
from validation.verdict import SEVERITY, Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from tasks.specs import ModelSpec, Precision
    from validation.comparison import ComparisonResult
    from validation.policy import Policy
    from validation.verdict import RuleResult

SUBJECT = "policy"
RECIPE = 1
MOST_VALUES = 4_000_000
"""Outputs of more values than this are not measured here: their comparison takes longer than a check may."""
SHOWN = 3


def check_policies(
    context: StageContext,
    spec: ModelSpec,
    policies: Mapping[Precision, Policy],
    data: DataArtifact,
    groups: Artifact | None,
    seen: Artifact,
) -> Iterator[Remark]:
    """Of each precision's policy, the rules that a perfect engine could not pass on these data.

    Args:
        context: the stages' surroundings.
        spec: the model.
        policies: the policy of each precision.
        data: the validation data.
        groups: the groups that its samples belong to; None where each is one of its own.
        seen: the module's outputs on some of them, as `probe` leaves them.
    """
    for precision, policy in policies.items():
        try:
            measured = _measure(context, spec, policy, data, groups, seen)
        except StageError as error:
            yield warning(SUBJECT, f"{precision.value}: could not be tried on equal outputs: {error}")
            continue
        if measured is None:
            yield good(SUBJECT, f"{precision.value}: {_rules(policy)}; the outputs are too large to try them here")
            continue
        yield from _remarks_on(policy, precision, measured, spec.reference)


def _rules(policy: Policy) -> str:
    return f"{len(policy.rules)} rule{'s' * (len(policy.rules) != 1)}"


def _remarks_on(policy: Policy, precision: Precision, found: ComparisonResult, reference: str) -> Iterator[Remark]:
    with_labels = any(METRICS[measurement.metric].needs_label for measurement in found.measurements)
    verdict = decide(policy, found, precision=precision.value)
    for defect in verdict.defects:
        yield warning(SUBJECT, f"{precision.value}: no engine passes: {defect}")
    never = [
        result
        for result in verdict.rules
        if result.outcome is not Outcome.PASS and (with_labels or not METRICS[result.rule.metric].needs_label)
    ]
    if never:
        worst = min(never, key=lambda result: SEVERITY[result.outcome])
        others = list(dict.fromkeys(_name(result) for result in never if _name(result) != _name(worst)))
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        nor = f" Nor {', '.join(others[:SHOWN])}{more}." if others else ""
        text = f"{precision.value}: even an engine that equals {reference} does not pass: {worst.sentence}{nor}"
        yield warning(SUBJECT, text)
    if not never and not verdict.defects:
        samples = found.samples if found.independent is None else found.independent
        yield good(SUBJECT, f"{precision.value}: {samples:,} independent samples can pass its {_rules(policy)}")


def _name(result: RuleResult) -> str:
    by = "" if result.rule.by is None else f" by {result.rule.by}"
    return f"{result.rule.output} {result.rule.metric}{by}"


def _measure(
    context: StageContext,
    spec: ModelSpec,
    policy: Policy,
    data: DataArtifact,
    groups: Artifact | None,
    seen: Artifact,
) -> ComparisonResult | None:
    plan = plan_of(policy)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "statistics": statistics_digest(),
        "seen": seen.digest,
        "annotations": data.annotations.digest,
        "groups": None if groups is None else groups.digest,
        "outputs": {name: output.model_dump(mode="json") for name, output in spec.outputs.items()},
        **plan,
    }
    with context.store.scratch() as folder:
        outputs = _largest(context.store.fetch(seen, folder / "seen"))
        if data.samples * sum(array[:1].size for array in outputs.values()) > MOST_VALUES:
            return None

    def produce(folder: Path) -> Measured:
        request = MeasureRequest(
            reference=folder / "reference",
            candidate=folder / "reference",
            annotations=folder / "beside",
            inputs=folder / "inputs" if any(output.mask for output in spec.outputs.values()) else None,
            outputs=spec.outputs,
            groups=None if groups is None else context.store.fetch(groups, folder / "groups"),
            **plan,
        )
        annotations = context.store.fetch(data.annotations, folder / "annotations")
        _lay_out(outputs, context.store.fetch(data.inputs, folder / "samples"), annotations, folder)
        entry = "tasks.stages.compare:measure_in_child"
        return context.call_in_child(entry, request, Measured, folder)

    return run_cached(context.store, "equal outputs", key, Measured, produce).result.comparison


def _largest(folder: Path) -> Arrays:
    """The shard of outputs with the most samples."""
    return max((load_arrays(path) for path in shard_paths(folder)), key=lambda shard: len(next(iter(shard.values()))))


def _lay_out(seen: Arrays, samples: Path, annotations: Path, folder: Path) -> None:
    """Write shards of outputs, masks and annotations, as many and as long as those of the data."""
    for name in ("reference", "inputs", "beside"):
        (folder / name).mkdir()
    start = 0
    for number, path in enumerate(shard_paths(annotations)):
        beside = load_arrays(path)
        rows = start + np.arange(rows_in(samples / path.name))
        start += len(rows)
        drawn = {name: array[rows % len(array)] for name, array in seen.items()}
        save_shard(folder / "reference", number, {n: a for n, a in drawn.items() if not n.startswith(MASK)})
        save_shard(folder / "inputs", number, {n.removeprefix(MASK): a for n, a in drawn.items() if n.startswith(MASK)})
        save_shard(folder / "beside", number, {n: a for n, a in beside.items() if n != LABEL or a.ndim == 1})
