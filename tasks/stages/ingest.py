"""Takes `.npz` data into the store: checked against model.yaml, and cut into shards of bounded size."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.records import DataArtifact
from tasks.samples.blocks import open_samples
from tasks.samples.data_spec import GROUP, LABEL, SLICE, DataSpec, slices_in
from tasks.samples.formats import read_arrays
from tasks.samples.npz import FIRST_INDICES, Arrays, save_shard
from tasks.samples.possible import value_bounds
from tasks.samples.shared import alike_in_shared, with_shared
from tasks.store.digests import digest_once
from tasks.store.stage_cache import StageResult, run_cached
from validation.breakdowns import LARGEST_SLICE
from validation.groups import GROUP_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.process.context import StageContext

RECIPE = 2
SHARD_BYTES = 16 << 20
SHARD_SAMPLES = 1024
SHARDS_PER_BLOCK = 4
MOST_PROBLEMS = 20
"""So many things that are wrong with the data are told at once."""


def ingest(context: StageContext, spec: DataSpec, files: Sequence[Path], field: str) -> StageResult[DataArtifact]:
    """Check the samples of `files` and store them in shards of at most 1,024 samples or 16 MiB.

    Args:
        context: the stage's surroundings.
        spec: the model, whose inputs and dims the samples must fit.
        files: `.npz` files: one array per input, first axis the samples; optional `label`, `group` and
            `slice.<name>`.
        field: the field of model.yaml that named them, for errors.

    Raises:
        InputError: naming file, array, and what is wrong with it.
    """
    digests = [digest_once(path) for path in files]
    key: dict[str, object] = {
        "recipe": RECIPE,
        "files": digests,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
    }

    def produce(folder: Path) -> DataArtifact:
        inputs, annotations = folder / "inputs", folder / "annotations"
        inputs.mkdir()
        annotations.mkdir()
        samples, slices = 0, _SliceValues(field)
        for number, shard in enumerate(_shards(spec, files, field)):
            save_shard(inputs, number, {name: shard[name] for name in spec.inputs})
            save_shard(annotations, number, {name: a for name, a in shard.items() if name not in spec.inputs})
            slices.add(shard)
            samples += len(shard[next(iter(spec.inputs))])
        if [digest_once(path) for path in files] != digests:
            raise InputError(f"{field}: a file changed while it was read; run the conversion again")
        return DataArtifact(
            inputs=context.store.put(inputs),
            annotations=context.store.put(annotations),
            samples=samples,
            slices=slices.names,
        )

    return run_cached(context.store, "ingest", key, DataArtifact, produce)


class _SliceValues:
    """The distinct values of each slice, as text. One with too many is refused: it names samples, not groups."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._values: dict[str, set[str]] = {}

    def add(self, shard: Arrays) -> None:
        for name, array in slices_in(shard).items():
            values = self._values.setdefault(name, set())
            values.update(np.unique(array.astype(np.str_)).tolist())
            if len(values) > LARGEST_SLICE:
                raise InputError(
                    f"{self._field}: {SLICE}{name} has more than {LARGEST_SLICE:,} distinct values, too many to judge"
                    " each on its own; join them into groups, or remove it"
                )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._values))


@dataclass(frozen=True)
class _Checker:
    """Checks the arrays of one file against model.yaml, or those of a part that begins with its row `first`."""

    spec: DataSpec
    origin: str
    first: int = 0

    def check(self, arrays: Arrays) -> int:
        """Return the number of samples; raise InputError with all that is wrong, a line each."""
        extents: dict[str, tuple[int, str]] = {}
        problems = list(self._find_in_names(arrays))
        for name in self.spec.inputs:
            if name in arrays:
                problems += self._find_in_input(name, arrays[name], extents)
        found = {dimension: extent for dimension, (extent, _) in extents.items()}
        for name, declared in self.spec.inputs.items():
            if declared.range is not None and name in arrays and not problems:
                problems += self._find_out_of_range(name, arrays[name], found)
        samples, _ = extents.get(self.spec.batch_dim, (None, ""))
        for name, array in arrays.items():
            if self._is_annotation(name) and samples is not None:
                problems += self._find_in_annotation(name, array, samples)
        if samples == 0:
            problems.append("holds no samples; remove the file or fill it")
        if problems or samples is None:
            raise InputError("\n".join(f"{self.origin}: {problem}" for problem in problems))
        return samples

    def _is_annotation(self, name: str) -> bool:
        named = name in {LABEL, GROUP} or (name.startswith(SLICE) and name != SLICE)
        return named and name not in self.spec.inputs

    def _find_in_names(self, arrays: Arrays) -> Iterator[str]:
        for name in self.spec.inputs:
            if name not in arrays:
                found = ", ".join(sorted(arrays)) or "none"
                yield f"input {name!r} is missing (arrays found: {found}); save it under that name"
        for name in arrays:
            if name not in self.spec.inputs and not self._is_annotation(name):
                nearest = difflib.get_close_matches(name, [*self.spec.inputs, LABEL, GROUP, SLICE], n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "remove it"
                yield f"array {name!r} is no input of model.yaml, no label, group or slice.<name>; {hint}"

    def _find_in_input(
        self, name: str, array: np.ndarray[Any, Any], extents: dict[str, tuple[int, str]]
    ) -> Iterator[str]:
        declared = self.spec.inputs[name]
        if array.dtype.name != declared.dtype:
            yield f"{name} is {array.dtype.name}, model.yaml says {declared.dtype}; convert one of them"
        elif not array.dtype.isnative:
            yield f"{name} has the byte order of another machine; convert it with .astype('{declared.dtype}')"
        if array.ndim != len(declared.shape):
            yield (
                f"{name} has {array.ndim} axes {array.shape}, model.yaml says {len(declared.shape)}:"
                f" [{', '.join(map(str, declared.shape))}]"
            )
            return
        for axis, (extent, dimension) in enumerate(zip(array.shape, declared.shape, strict=True)):
            yield from self._find_in_extent(name, axis, extent, dimension, extents)
        if array.dtype.kind == "f":
            yield from _find_not_finite(name, array, self.first)

    def _find_in_extent(
        self, name: str, axis: int, extent: int, dimension: str | int, extents: dict[str, tuple[int, str]]
    ) -> Iterator[str]:
        if isinstance(dimension, int):
            if extent != dimension:
                yield f"{name} has extent {extent} on axis {axis}, model.yaml says {dimension}"
            return
        known, where = extents.setdefault(dimension, (extent, name))
        if known != extent:
            what = "samples" if dimension == self.spec.batch_dim else f"as {dimension}"
            yield f"{name} has {extent} {what}, but {where} has {known}; they must agree"
        bounds = self.spec.dims[dimension]
        if dimension != self.spec.batch_dim and not bounds.min <= extent <= bounds.max:
            yield (
                f"{name} has {dimension} {extent}, outside dims.{dimension} {bounds.min}..{bounds.max} of model.yaml;"
                " widen the dim or leave those samples out"
            )
        if dimension != self.spec.batch_dim and extent % bounds.step:
            yield (
                f"{name} has {dimension} {extent}, and model.yaml says dims.{dimension}.multiple_of {bounds.step}; pad"
                f" those samples to {-(-extent // bounds.step) * bounds.step}, or correct it"
            )

    def _find_out_of_range(self, name: str, array: np.ndarray[Any, Any], extents: dict[str, int]) -> Iterator[str]:
        low, high = value_bounds(self.spec.inputs[name], extents)
        bad = np.flatnonzero(((array < low) | (array > high)).reshape(len(array), -1).any(axis=1))
        if len(bad):
            low_said, high_said = self.spec.inputs[name].range or (low, high)
            first = ", ".join(map(str, bad[:FIRST_INDICES] + self.first))
            yield (
                f"{name} leaves its range [{low_said}, {high_said}] of model.yaml, here {low:g} to {high:g}, in"
                f" {len(bad)} samples (first: {first}); correct the range or those samples"
            )

    def _find_in_annotation(self, name: str, array: np.ndarray[Any, Any], samples: int) -> Iterator[str]:
        # A label may be one for each column or position of an output; the comparison says whose it can be.
        if array.ndim == 0 or (array.ndim > 1 and name != LABEL) or len(array) != samples:
            yield f"{name} has shape {array.shape}, but there are {samples} samples; give one value for each"
            return
        if array.dtype.kind not in "biufU":
            yield f"{name} has dtype {array.dtype.name}; use numbers or text (numpy's str dtype)"
        elif name == GROUP and array.dtype.kind not in GROUP_KINDS:
            yield f"group has dtype {array.dtype.name}; name each group by text or a whole number"
        if name == LABEL and array.dtype.kind == "U":
            yield "label is text; give the right score, or the number of the right class"
        if array.dtype.kind == "f":
            yield from _find_not_finite(name, array, self.first)


def _find_not_finite(name: str, array: np.ndarray[Any, Any], first_row: int) -> Iterator[str]:
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if len(bad):
        first = ", ".join(map(str, bad[:FIRST_INDICES] + first_row))
        yield f"{name} holds NaN or Inf in {len(bad)} samples (first: {first}); remove or mend them"


def _shards(spec: DataSpec, files: Sequence[Path], field: str) -> Iterator[Arrays]:
    """The shards of all files; once something is wrong, what else is.

    Raises:
        InputError: what is wrong, a line each, at the end.
    """
    annotations: set[str] | None = None
    problems: list[str] = []
    for path in files:
        try:
            for arrays in _checked_blocks(spec, path, field):
                names = set(arrays) - set(spec.inputs)
                if annotations is not None and names != annotations:
                    problems.append(
                        f"{field}: {path.name}: has {_listed(names)}, the files before have {_listed(annotations)};"
                        " every file needs the same label, group and slices"
                    )
                annotations = names
                if not problems:
                    yield from _cut(arrays, spec)
        except InputError as error:
            problems += str(error).splitlines()
    if problems:
        more = len(problems) - MOST_PROBLEMS
        told = problems[:MOST_PROBLEMS] + ([f"{field}: and {more} more such lines"] if more > 0 else [])
        raise InputError("\n".join(told))


def _checked_blocks(spec: DataSpec, path: Path, field: str) -> Iterator[Arrays]:
    """The arrays of a file, in parts where it is large and no input is shared; each is cut where the whole would be."""
    if any(declared.is_shared for declared in spec.inputs.values()):
        arrays = with_shared(read_arrays(path), spec)
        _Checker(spec, f"{field}: {path.name}").check(arrays)
        yield arrays
        return
    for block in open_samples(path).blocks(rows_of=_rows_per_block):
        _Checker(spec, f"{field}: {path.name}{block.in_words}", block.first).check(block.arrays)
        yield block.arrays


def _cut(arrays: Arrays, spec: DataSpec) -> Iterator[Arrays]:
    rows = _rows_per_shard(arrays, len(arrays[next(iter(spec.inputs))]))
    for alike in alike_in_shared(arrays, spec):
        for start in range(0, len(alike), rows):
            part = alike[start : start + rows]
            whole = len(part) == part[-1] - part[0] + 1  # a slice copies nothing
            taken = slice(int(part[0]), int(part[-1]) + 1) if whole else part
            yield {name: array[taken] for name, array in sorted(arrays.items())}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "neither label, group nor slices"


def _rows_per_shard(arrays: Arrays, samples: int) -> int:
    return _rows_within(sum(array.nbytes for array in arrays.values()) // samples)


def _rows_within(bytes_per_sample: int) -> int:
    return max(1, min(SHARD_SAMPLES, SHARD_BYTES // max(1, bytes_per_sample)))


def _rows_per_block(bytes_per_sample: int) -> int:
    """A few whole shards."""
    return SHARDS_PER_BLOCK * _rows_within(bytes_per_sample)
