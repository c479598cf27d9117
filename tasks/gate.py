"""The gate on its own: two sets of outputs in files, and a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.data import load_arrays, shard_paths
from tasks.errors import InputError
from tasks.model_directory import read_yaml
from validation.comparison import Comparison
from validation.policy import PolicyError, outputs_from_mapping, policy_from_mapping
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.data import Arrays
    from validation.comparison import ComparisonResult
    from validation.outputs import OutputSpec
    from validation.verdict import Verdict

SLICE = "slice."
LABEL = "label"


def judge_files(reference: Path, candidate: Path, policy_file: Path) -> tuple[ComparisonResult, Verdict]:
    """Compare the outputs in `candidate` with those in `reference` under a policy that declares the outputs.

    Each is an `.npz` file, or a folder of shards alike in name: one array per output, first axis the samples.
    `reference` may hold `label` and `slice.<name>` too.

    Raises:
        InputError: a file cannot be read, the two have different shards, or the policy has a mistake.
    """
    content = read_yaml(policy_file)
    try:
        outputs = outputs_from_mapping(content, origin=policy_file.name)
        if not outputs:
            raise InputError(
                f"{policy_file.name}: outputs: missing; declare each output, like `score: {{kind: score}}`"
            )
        policy = policy_from_mapping(content, outputs, origin=policy_file.name)
    except PolicyError as error:
        raise InputError(str(error)) from None
    pairs = list(_pairs(reference, candidate))
    comparison = Comparison(outputs, _ranges(outputs, [pair[0] for pair in pairs]))
    for reference_path, candidate_path in pairs:
        arrays = load_arrays(reference_path)
        slices = {name.removeprefix(SLICE): array for name, array in arrays.items() if name.startswith(SLICE)}
        expected = {name: a for name, a in arrays.items() if name != LABEL and not name.startswith(SLICE)}
        comparison.update(expected, load_arrays(candidate_path), slices=slices)
    result = comparison.result()
    return result, decide(policy, result)


def _pairs(reference: Path, candidate: Path) -> Iterator[tuple[Path, Path]]:
    for path in (reference, candidate):
        if not path.exists():
            raise InputError(f"{path}: does not exist; name an .npz file or a folder of them")
    if reference.samefile(candidate):
        raise InputError(f"{reference} is compared with itself; name the candidate's own outputs")
    if reference.is_file() and candidate.is_file():
        yield reference, candidate
        return
    if reference.is_file() or candidate.is_file():
        raise InputError(f"{reference} and {candidate}: one is a file, the other a folder; give two of a kind")
    expected, found = ({path.name: path for path in shard_paths(folder)} for folder in (reference, candidate))
    if not expected:
        raise InputError(f"{reference}: holds no .npz file; an empty comparison is never a pass")
    if expected.keys() != found.keys():
        differing = ", ".join(sorted(expected.keys() ^ found.keys()))
        raise InputError(f"{reference} and {candidate}: shards on one side only: {differing}; give both the same names")
    for name, path in expected.items():
        yield path, found[name]


def _ranges(outputs: Mapping[str, OutputSpec], paths: list[Path]) -> dict[str, tuple[float, float]]:
    """Smallest and largest finite value of each output of the reference, in a pass of its own."""
    ranges: dict[str, tuple[float, float]] = {}
    for path in paths:
        for name, array in _outputs_in(load_arrays(path), outputs).items():
            finite = array[np.isfinite(array)]
            if finite.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(finite.min())), max(high, float(finite.max())))
    return ranges


def _outputs_in(arrays: Arrays, outputs: Mapping[str, OutputSpec]) -> Arrays:
    return {name: array for name, array in arrays.items() if name in outputs and array.dtype.kind in "biuf"}
