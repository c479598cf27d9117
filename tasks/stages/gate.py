"""The gate on its own: two sets of outputs in files, and a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.model.documents import read_yaml
from tasks.model.model_directory import refuse_rules_on_labels, refuse_unknown_slices
from tasks.samples.data_spec import GROUP, LABEL, SLICE, slices_in
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from validation.bootstrap import Bootstrap
from validation.classes import TOP
from validation.comparison import Comparison, ComparisonResult
from validation.defects import count_samples
from validation.groups import GROUP_KINDS, Groups, keys_of_rows, keys_of_values
from validation.misfits import classes_last, find_misfit
from validation.near_repeats import MOST_SEARCHED, NearRepeats
from validation.outputs import OutputKind
from validation.policy import Policy, PolicyError, outputs_from_mapping, policy_from_mapping
from validation.verdict import Verdict, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.model.policy_floor import OrganisationFloor
    from validation.groups import Keys
    from validation.outputs import OutputSpec


@dataclass(frozen=True)
class Judgement:
    """A verdict, with the policy and the comparison that it follows from.

    `unjudged` are the outputs that no rule names. `named` says that the data name the groups of their samples. Of the
    independent samples that were `searched`, the reference's embeddings and tensors of `near` are nearly another's.
    `tightened` is what a floor made stricter in the policy.
    """

    policy: Policy
    comparison: ComparisonResult
    verdict: Verdict
    unjudged: tuple[str, ...]
    named: bool
    near: int
    searched: int
    tightened: tuple[str, ...] = ()


def judge_files(
    reference: Path, candidate: Path, policy_file: Path, floor: OrganisationFloor | None = None
) -> Judgement:
    """Compare the outputs in `candidate` with those in `reference` under a policy that declares the outputs.

    Each is an `.npz` file, or a folder of shards alike in name: one array per output, first axis the samples.
    `reference` may hold `label`, `group`, `slice.<name>` and the masks that outputs name, too. Samples of one group are
    one independent sample; without groups, samples are one where everything that is there of them is the same. What is
    wrong with an output fails the verdict as a defect of it. Rules of performance are not judged. What `floor` asks for
    holds too.

    Raises:
        InputError: a file cannot be read, the two have different shards, shards differ in what they hold beside
            outputs, or the policy has a mistake, or names what is not there: a slice, a label, a sixth class, or an
            output is not of its kind.
    """
    outputs, policy = _read_policy(policy_file)
    tightened: tuple[str, ...] = ()
    if floor is not None:
        held = floor.tighten(policy, outputs)
        policy, tightened = held.policy, held.changes
    files = _Files(tuple(_pairs(reference, candidate)), outputs)
    files.refuse_what_has_no_value(policy, policy_file.name)
    groups, named, near = files.groups()
    comparison = Comparison(
        outputs,
        by=policy.slices,
        plan=Bootstrap(confidence=policy.confidence, resamples=policy.resamples),
        group_sizes=None if groups is None else groups.sizes,
    )
    for number, shard in enumerate(files.shards()):
        comparison.update(
            shard.reference,
            shard.candidate,
            slices=slices_in(shard.beside),
            label=shard.beside.get(LABEL),
            masks=shard.beside,
            groups=None if groups is None else groups.batches[number],
        )
    result = comparison.result()
    judged = {rule.output for rule in policy.rules}
    unjudged = tuple(name for name in outputs if name not in judged)
    return Judgement(policy, result, decide(policy, result), unjudged, named, near.count, near.searched, tightened)


@dataclass(frozen=True)
class _Shard:
    """Outputs of both sides, and what the reference has beside them."""

    path: Path
    reference: Arrays
    candidate: Arrays
    beside: Arrays
    count: int

    @property
    def keys(self) -> Keys:
        """A key a sample: of its group, else of all that is there of it."""
        group = self.beside.get(GROUP)
        if group is not None:
            if group.shape != (self.count,) or group.dtype.kind not in GROUP_KINDS:
                raise InputError(
                    f"{self.path.name}: group has shape {group.shape} and dtype {group.dtype}, and there are"
                    f" {self.count} samples; name the group of each by text or a whole number"
                )
            return keys_of_values(group)
        parts = {"reference": self.reference, "candidate": self.candidate, "beside": self.beside}
        columns = {f"{part} {name}": array for part, arrays in parts.items() for name, array in arrays.items()}
        return keys_of_rows({name: a for name, a in columns.items() if a.shape[:1] == (self.count,)}, self.count)


@dataclass(frozen=True)
class _Files:
    """The files of both sides, in pairs."""

    pairs: tuple[tuple[Path, Path], ...]
    outputs: Mapping[str, OutputSpec]

    def shards(self) -> Iterator[_Shard]:
        """Read one pair after the other."""
        first: Arrays | None = None
        for reference_path, candidate_path in self.pairs:
            arrays, candidate = load_arrays(reference_path), load_arrays(candidate_path)
            beside = {name: array for name, array in arrays.items() if self._is_beside(name)}
            first = beside if first is None else first
            _require_alike(first, beside, reference_path)
            reference = {name: array for name, array in arrays.items() if name not in beside or name in self.outputs}
            count = count_samples(reference, candidate, self.outputs)
            yield _Shard(reference_path, reference, candidate, beside, count)

    def _is_beside(self, name: str) -> bool:
        masks = {spec.mask for spec in self.outputs.values()}
        named = name == LABEL or (name == GROUP and name not in self.outputs)
        return named or name.startswith(SLICE) or name in masks

    def refuse_what_has_no_value(self, policy: Policy, origin: str) -> None:
        """Raise InputError for a rule that can have no value, whatever the candidate is."""
        first = next(self.shards())
        self._refuse_other_kinds(first, origin)
        refuse_unknown_slices(policy, slices_in(first.beside), origin)
        if LABEL not in first.beside:
            refuse_rules_on_labels(policy, origin)
        for index, rule in enumerate(policy.rules):
            found = first.reference.get(rule.output)
            found = None if found is None else classes_last(self.outputs[rule.output], found)
            if rule.metric == "top5_agreement" and found is not None and found.ndim and _classes(found) <= TOP:
                raise InputError(
                    f"{origin}: rules[{index}]: {rule.output} top5_agreement of {_classes(found)} classes has no value:"
                    f" it needs more than {TOP}; use top1_agreement"
                )

    def _refuse_other_kinds(self, shard: _Shard, origin: str) -> None:
        for name, spec in self.outputs.items():
            array = shard.reference.get(name)
            mask_axes = shard.beside[spec.mask].ndim if spec.mask in shard.beside else None
            misfit = find_misfit(spec, array, mask_axes) if array is not None and array.ndim else None
            if misfit is not None:
                raise InputError(f"{origin}: outputs.{name}: the reference {misfit}")

    def groups(self) -> tuple[Groups | None, bool, NearRepeats]:
        """The groups of the samples, None where each is one of its own; whether the data name them; near repeats."""
        keys: list[Keys] = []
        named, near = False, NearRepeats()
        for shard in self.shards():
            own = shard.keys
            new = np.sort(np.unique(own, return_index=True)[1])
            new = new[~np.isin(own[new], np.concatenate([own[:0], *keys]))][: MOST_SEARCHED - near.searched]
            wide = {name: shard.reference[name] for name in self._wide(shard)}
            if wide and len(new):
                near.add({name: array[new] for name, array in wide.items()}, np.zeros(len(new), np.uint64))
            keys.append(own)
            named = GROUP in shard.beside
        groups = Groups.by(keys)
        return (None if groups.count == groups.rows else groups), named, near

    def _wide(self, shard: _Shard) -> Iterator[str]:
        """Outputs by which samples can be told apart: of other kinds, many are alike by chance."""
        for name, spec in self.outputs.items():
            array = shard.reference.get(name)
            if spec.mask is not None or spec.kind not in {OutputKind.EMBEDDING, OutputKind.TENSOR} or array is None:
                continue
            if array.shape[:1] == (shard.count,) and array.dtype.kind == "f" and np.isfinite(array).all():
                yield name


def _classes(output: np.ndarray[Any, Any]) -> int:
    return max(2, output.shape[-1] if output.ndim > 1 else 1)


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
