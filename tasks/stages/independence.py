"""How many independent samples data hold: by the groups that they name, or by inputs, whose repeats count once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from tasks.artifact import Artifact
from tasks.calibration.features import sample_digests
from tasks.declared import Frozen
from tasks.samples.data_spec import GROUP, LABEL, DataSpec
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.store.stage_cache import StageResult, run_cached
from validation.groups import Groups, keys_of_rows, keys_of_values
from validation.near_repeats import MOST_SEARCHED, NearRepeats, near_in_words

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from validation.groups import Keys

RECIPE = 2  # near repeats of a table are counted by the range of each column
_DIGITS = 16


class IndependentSamples(Frozen):
    """How many independent samples data hold: their groups, where `named`, or what differs in any input.

    `groups` holds the number of each sample's group, `group` `[n]`, sharded as the data; None where each sample is a
    group of its own. Of the independent samples that were `searched`, `near` are nearly the same as another.
    """

    samples: Annotated[int, Field(ge=1)]
    independent: Annotated[int, Field(ge=1)]
    named: bool
    labelled: bool
    near: int
    searched: int
    groups: Artifact | None


def count_independent(context: StageContext, spec: DataSpec, data: DataArtifact) -> StageResult[IndependentSamples]:
    """Count the groups of samples, which their `group` names; else samples whose inputs are equal are one group.

    Samples that are nearly the same are counted beside, and stay independent.
    """
    key: dict[str, object] = {
        "recipe": RECIPE,
        "inputs": data.inputs.digest,
        "annotations": data.annotations.digest,
        "spec": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
    }

    def produce(folder: Path) -> IndependentSamples:
        inputs = context.store.fetch(data.inputs, folder / "inputs")
        annotations = context.store.fetch(data.annotations, folder / "annotations")
        keys, named, labelled = _keys(spec, inputs, annotations)
        groups = Groups.by(keys)
        near, searched = _near_repeats(spec, inputs, groups)
        return IndependentSamples(
            samples=groups.rows,
            independent=groups.count,
            named=named,
            labelled=labelled,
            near=near,
            searched=searched,
            groups=None if groups.count == groups.rows else _store(context, groups, folder / "groups"),
        )

    return run_cached(context.store, "independence", key, IndependentSamples, produce)


def _keys(spec: DataSpec, inputs: Path, annotations: Path) -> tuple[list[Keys], bool, bool]:
    """A key by shard and sample, whether groups are named, and whether there are labels."""
    keys, named, labelled = [], False, False
    for path in shard_paths(annotations):
        beside = load_arrays(path)
        named, labelled = GROUP in beside, LABEL in beside
        if named:
            keys.append(keys_of_values(beside[GROUP]))
        else:
            digests = sample_digests(load_arrays(inputs / path.name), spec.inputs, spec.batch_dim)
            keys.append(np.array([int(digest[:_DIGITS], 16) for digest in digests], dtype=np.uint64))
    return keys, named, labelled


def _near_repeats(spec: DataSpec, inputs: Path, groups: Groups) -> tuple[int, int]:
    """How many samples, one of each group, are near another, and among how many."""
    floats = [name for name, tensor in spec.inputs.items() if tensor.dtype.startswith("float")]
    if not floats:
        return 0, 0
    found, seen, most = NearRepeats(), 0, min(groups.count, MOST_SEARCHED)
    wanted = np.arange(most) * groups.count // most
    for path, numbers in zip(shard_paths(inputs), groups.batches, strict=True):
        _, first = np.unique(numbers, return_index=True)
        rows = np.sort(first[(numbers[first] >= seen) & np.isin(numbers[first], wanted)])
        seen = max(seen, int(numbers.max(initial=-1)) + 1)
        shard = {name: array[rows] for name, array in load_arrays(path).items()}
        others = {name: array for name, array in shard.items() if name not in floats}
        found.add({name: shard[name] for name in floats}, keys_of_rows(others, len(rows)))
    return found.count, found.searched


def _store(context: StageContext, groups: Groups, folder: Path) -> Artifact:
    folder.mkdir()
    for number, batch in enumerate(groups.batches):
        save_shard(folder, number, {GROUP: batch})
    return context.store.put(folder)


def load_groups(folder: Path) -> Groups:
    """The groups that `count_independent` stored."""
    batches = tuple(load_arrays(path)[GROUP] for path in shard_paths(folder))
    return Groups(batches, np.bincount(np.concatenate(batches)))


def independence_in_words(found: IndependentSamples) -> str:
    """`50 in 5,000 samples, by group`, and how many are nearly the same as another."""
    if found.named:
        words = f"{found.independent:,} in {found.samples:,} samples, by `group`"
    elif found.groups is None:
        words = f"{found.samples:,} samples, no two alike"
    else:
        repeats = found.samples - found.independent
        words = f"{found.independent:,} in {found.samples:,} samples: {repeats:,} repeat another exactly"
    near = near_in_words(found.near, found.searched)
    return f"{words}; ! {near}" if near else words
