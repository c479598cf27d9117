"""The gate on its own: two sets of outputs in files, and a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.model.documents import read_yaml
from tasks.model.model_directory import refuse_unknown_slices
from tasks.samples.data_spec import LABEL, SLICE, slices_in
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult
from validation.policy import Policy, PolicyError, outputs_from_mapping, policy_from_mapping
from validation.verdict import Verdict, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.model.policy_floor import OrganisationFloor
    from validation.outputs import OutputSpec


@dataclass(frozen=True)
class Judgement:
    """A verdict, with the policy and the comparison that it follows from, and what a floor made stricter in that."""

    policy: Policy
    comparison: ComparisonResult
    verdict: Verdict
    tightened: tuple[str, ...] = ()


def judge_files(
    reference: Path, candidate: Path, policy_file: Path, floor: OrganisationFloor | None = None
) -> Judgement:
    """Compare the outputs in `candidate` with those in `reference` under a policy that declares the outputs.

    Each is an `.npz` file, or a folder of shards alike in name: one array per output, first axis the samples.
    `reference` may hold `label`, `slice.<name>` and the masks that outputs name, too. What is wrong with an output
    fails the verdict as a defect of it. Rules of performance are not judged. What `floor` asks for holds too.

    Raises:
        InputError: a file cannot be read, the two have different shards, shards differ in what they hold beside
            outputs, or the policy has a mistake or names a slice that is not there.
    """
    outputs, policy = _read_policy(policy_file)
    tightened: tuple[str, ...] = ()
    if floor is not None:
        held = floor.tighten(policy, outputs)
        policy, tightened = held.policy, held.changes
    comparison = Comparison(
        outputs,
        by=policy.slices,
        plan=Bootstrap(confidence=policy.confidence, resamples=policy.resamples),
    )
    masks = {spec.mask for spec in outputs.values() if spec.mask is not None}
    first: Arrays | None = None
    for reference_path, candidate_path in _pairs(reference, candidate):
        arrays = load_arrays(reference_path)
        beside = {name: a for name, a in arrays.items() if name == LABEL or name.startswith(SLICE) or name in masks}
        if first is None:
            first = beside
            refuse_unknown_slices(policy, slices_in(first), policy_file.name)
        _require_alike(first, beside, reference_path)
        comparison.update(
            {name: a for name, a in arrays.items() if name not in beside or name in outputs},
            load_arrays(candidate_path),
            slices=slices_in(beside),
            label=beside.get(LABEL),
            masks={name: beside[name] for name in masks & beside.keys()},
        )
    result = comparison.result()
    return Judgement(policy, result, decide(policy, result), tightened)


def _read_policy(path: Path) -> tuple[dict[str, OutputSpec], Policy]:
    content = read_yaml(path)
    try:
        outputs = outputs_from_mapping(content, origin=path.name)
        if not outputs:
            raise InputError(f"{path.name}: outputs: missing; declare each output, like `score: {{kind: score}}`")
        return outputs, policy_from_mapping(content, outputs, origin=path.name)
    except PolicyError as error:
        raise InputError(str(error)) from None


def _require_alike(first: Mapping[str, object], found: Mapping[str, object], path: Path) -> None:
    """Rules by slice or with labels judge all samples or none, so every shard has the same of them."""
    if first.keys() != found.keys():
        differing = ", ".join(sorted(first.keys() ^ found.keys()))
        raise InputError(f"{path.name}: {differing} is in some shards only; give every shard the same")


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
