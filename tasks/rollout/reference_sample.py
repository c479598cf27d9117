"""Runs a sample of live pairs through the PyTorch reference: so that errors cannot creep from release to release.

Pairs compare the canary with production, which was compared with another canary before. Where inputs may be kept, a
seeded sample of them goes the way of validation data: the module's outputs in float32, and the gate of the canary's own
policy, once for each of the two engines.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.records import DataArtifact
from tasks.rollout.judging import stages_of
from tasks.rollout.shards import PairShard, in_order, read_shard
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.stages.reference import run_reference
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison
from validation.groups import Groups, keys_of_values
from validation.metrics import METRICS
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext
    from tasks.records import EngineManifest
    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory
    from tasks.registry.steps import RolloutState
    from validation.policy import Policy
    from validation.verdict import Verdict

    Row = dict[str, np.ndarray[Any, Any]]

MOST = 400
"""Samples that decide most rules of a default policy, whose `min_samples` is 300."""
_SIDES = ("production", "canary")


@dataclass(frozen=True)
class SampledPair:
    """A pair with its inputs: arrays by name, without the axis of samples."""

    group: str
    slices: dict[str, str]
    inputs: Row
    outputs: dict[str, Row]

    @property
    def shapes(self) -> tuple[object, ...]:
        """What pairs that are run together share."""
        return tuple((name, array.shape) for name, array in sorted(self.inputs.items()))


@dataclass(frozen=True)
class AgainstReference:
    """How each engine does against PyTorch on the same `samples` of live traffic."""

    samples: int
    canary: Verdict
    production: Verdict


def draw_pairs(
    registry: Registry,
    history: RolloutHistory,
    state: RolloutState,
    manifest: EngineManifest,
    *,
    most: int,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[SampledPair]:
    """Draw pairs whose inputs were kept, each as likely as another: those with the smallest hashes under the seed.

    The same files give the same draw, in whatever order they are read. `on_progress` is told how many files are read.

    Raises:
        InputError: no pair has all inputs.
    """
    kept: list[tuple[int, str, SampledPair]] = []
    stages = stages_of(history, state)
    entries = in_order(list(registry.objects.list(history.address.shards(state.id))))
    for done, entry in enumerate(entries, start=1):
        shard = read_shard(registry.objects, entry.key, list(manifest.outputs), stages)
        if isinstance(shard, PairShard) and set(manifest.inputs) <= set(shard.inputs):
            for rank, request, pair in _ranked(shard, list(manifest.inputs), seed):
                heapq.heappush(kept, (-rank, request, pair))
                if len(kept) > most:
                    heapq.heappop(kept)
        on_progress(done, len(entries))
    if not kept:
        raise InputError(
            f"rollout {history.address}: no pair was kept with all of its inputs, so none can be run through PyTorch;"
            " `serving.sampling` in model.yaml says what may be kept"
        )
    return [pair for _, _, pair in sorted(kept, key=lambda one: (-one[0], one[1]))]


def _ranked(shard: PairShard, inputs: Sequence[str], seed: int) -> Iterator[tuple[int, str, SampledPair]]:
    usable = np.flatnonzero((shard.columns["failed"] == "") & ~shard.columns["noise"])
    for row in usable.tolist():
        request = f"{shard.columns['request'][row]} {row} {shard.key}"
        digest = hashlib.blake2b(f"{seed}\0{request}".encode(), digest_size=8).digest()
        sides = {"production": shard.production, "canary": shard.canary}
        yield (
            int.from_bytes(digest, "big"),
            request,
            SampledPair(
                group=str(shard.groups[row]),
                slices={name: str(values[row]) for name, values in shard.slices.items()},
                inputs={name: shard.inputs[name][row] for name in inputs},
                outputs={side: {name: array[row] for name, array in sides[side].items()} for side in _SIDES},
            ),
        )


def compare_with_reference(
    context: StageContext, directory: ModelDirectory, manifest: EngineManifest, pairs: Sequence[SampledPair]
) -> AgainstReference:
    """Run the inputs of pairs through the module of a model directory, and judge what both engines answered.

    Rules that need labels or slices that the pairs have not are left out.

    Raises:
        InputError: see `run_reference`; or the policy has no rule that could be judged.
    """
    batches = _of_one_shape(pairs)
    with context.store.scratch() as folder:
        data = _lay_down(context, folder, batches)
        reference = run_reference(context, directory, data).result
        outputs = [
            load_arrays(path) for path in shard_paths(context.store.fetch(reference.outputs, folder / "reference"))
        ]
    policy = _judgeable(manifest.policy, pairs)
    canary, production = (_judge(manifest, policy, batches, outputs, side) for side in ("canary", "production"))
    return AgainstReference(len(pairs), canary, production)


def _of_one_shape(pairs: Sequence[SampledPair]) -> list[list[SampledPair]]:
    batches: dict[tuple[object, ...], list[SampledPair]] = {}
    for pair in pairs:
        batches.setdefault(pair.shapes, []).append(pair)
    return list(batches.values())


def _lay_down(context: StageContext, folder: Path, batches: list[list[SampledPair]]) -> DataArtifact:
    """The inputs as data in the store, a shard for each shape."""
    for name in ("inputs", "annotations"):
        (folder / name).mkdir()
    for number, batch in enumerate(batches):
        save_shard(folder / "inputs", number, _stacked([pair.inputs for pair in batch]))
        save_shard(folder / "annotations", number, {})
    return DataArtifact(
        inputs=context.store.put(folder / "inputs"),
        annotations=context.store.put(folder / "annotations"),
        samples=sum(map(len, batches)),
        slices=(),
    )


def _stacked(rows: Sequence[Row]) -> Row:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _judgeable(policy: Policy, pairs: Sequence[SampledPair]) -> Policy:
    known = set.intersection(*(set(pair.slices) for pair in pairs))
    rules = tuple(rule for rule in policy.rules if not METRICS[rule.metric].needs_label and rule.by in {None, *known})
    if not rules:
        raise InputError(
            "policy: every rule needs labels or slices that live traffic has not, so nothing can be judged"
        )
    return replace(policy, rules=rules, performance=())


def _judge(
    manifest: EngineManifest, policy: Policy, batches: list[list[SampledPair]], references: list[Row], side: str
) -> Verdict:
    groups = Groups.by([keys_of_values(np.array([pair.group for pair in batch])) for batch in batches])
    declared = {name: output.as_output_spec() for name, output in manifest.outputs.items()}
    comparison = Comparison(
        declared,
        by=policy.slices,
        plan=Bootstrap(confidence=policy.confidence, resamples=policy.resamples),
        group_sizes=groups.sizes,
    )
    named = sorted(set.intersection(*(set(pair.slices) for batch in batches for pair in batch)))
    for batch, reference, numbers in zip(batches, references, groups.batches, strict=True):
        inputs = _stacked([pair.inputs for pair in batch])
        comparison.update(
            reference,
            _stacked([pair.outputs[side] for pair in batch]),
            slices={name: np.array([pair.slices[name] for pair in batch]) for name in named},
            masks={spec.mask: inputs[spec.mask] for spec in declared.values() if spec.mask is not None},
            groups=numbers,
        )
    return decide(policy, comparison.result())
