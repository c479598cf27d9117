"""Takes `.npz` data into the store: checked against model.yaml, and cut into shards of bounded size."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.records import DataArtifact
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
    """Checks the arrays of one file against model.yaml."""

    spec: DataSpec
    origin: str

    def check(self, arrays: Arrays) -> int:
        """Return the number of samples; raise InputError on the first thing that is wrong."""
        self._check_names(arrays)
        extents: dict[str, tuple[int, str]] = {}
        for name in self.spec.inputs:
            self._check_input(name, arrays[name], extents)
        found = {dimension: extent for dimension, (extent, _) in extents.items()}
        for name, declared in self.spec.inputs.items():
            if declared.range is not None:
                self._check_range(name, arrays[name], found)
        samples = extents[self.spec.batch_dim][0]
        for name, array in arrays.items():
            if name not in self.spec.inputs:
                self._check_annotation(name, array, samples)
        if samples == 0:
            raise self._error("holds no samples; remove the file or fill it")
        return samples

    def _error(self, message: str) -> InputError:
        return InputError(f"{self.origin}: {message}")

    def _check_names(self, arrays: Arrays) -> None:
        for name in self.spec.inputs:
            if name not in arrays:
                found = ", ".join(sorted(arrays)) or "none"
                raise self._error(f"input {name!r} is missing (arrays found: {found}); save it under that name")
        for name in arrays:
            annotation = name in {LABEL, GROUP} or (name.startswith(SLICE) and name != SLICE)
            if name not in self.spec.inputs and not annotation:
                nearest = difflib.get_close_matches(name, [*self.spec.inputs, LABEL, GROUP, SLICE], n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "remove it"
                raise self._error(f"array {name!r} is no input of model.yaml, no label, group or slice.<name>; {hint}")

    def _check_input(self, name: str, array: np.ndarray[Any, Any], extents: dict[str, tuple[int, str]]) -> None:
        declared = self.spec.inputs[name]
        if array.dtype.name != declared.dtype:
            raise self._error(f"{name} is {array.dtype.name}, model.yaml says {declared.dtype}; convert one of them")
        if not array.dtype.isnative:
            raise self._error(
                f"{name} has the byte order of another machine; convert it with .astype('{declared.dtype}')"
            )
        if array.ndim != len(declared.shape):
            raise self._error(
                f"{name} has {array.ndim} axes {array.shape}, model.yaml says {len(declared.shape)}:"
                f" [{', '.join(map(str, declared.shape))}]"
            )
        for axis, (extent, dimension) in enumerate(zip(array.shape, declared.shape, strict=True)):
            self._check_extent(name, axis, extent, dimension, extents)
        if array.dtype.kind == "f":
            self._check_finite(name, array)

    def _check_extent(
        self, name: str, axis: int, extent: int, dimension: str | int, extents: dict[str, tuple[int, str]]
    ) -> None:
        if isinstance(dimension, int):
            if extent != dimension:
                raise self._error(f"{name} has extent {extent} on axis {axis}, model.yaml says {dimension}")
            return
        known, where = extents.setdefault(dimension, (extent, name))
        if known != extent:
            what = "samples" if dimension == self.spec.batch_dim else f"as {dimension}"
            raise self._error(f"{name} has {extent} {what}, but {where} has {known}; they must agree")
        bounds = self.spec.dims[dimension]
        if dimension != self.spec.batch_dim and not bounds.min <= extent <= bounds.max:
            raise self._error(
                f"{name} has {dimension} {extent}, outside dims.{dimension} {bounds.min}..{bounds.max} of model.yaml;"
                " widen the dim or leave those samples out"
            )
        if dimension != self.spec.batch_dim and extent % bounds.step:
            raise self._error(
                f"{name} has {dimension} {extent}, and model.yaml says dims.{dimension}.multiple_of {bounds.step}; pad"
                f" those samples to {-(-extent // bounds.step) * bounds.step}, or correct it"
            )

    def _check_range(self, name: str, array: np.ndarray[Any, Any], extents: dict[str, int]) -> None:
        low, high = value_bounds(self.spec.inputs[name], extents)
        bad = np.flatnonzero(((array < low) | (array > high)).reshape(len(array), -1).any(axis=1))
        if len(bad):
            low_said, high_said = self.spec.inputs[name].range or (low, high)
            first = ", ".join(map(str, bad[:FIRST_INDICES]))
            raise self._error(
                f"{name} leaves its range [{low_said}, {high_said}] of model.yaml, here {low:g} to {high:g}, in"
                f" {len(bad)} samples (first: {first}); correct the range or those samples"
            )

    def _check_finite(self, name: str, array: np.ndarray[Any, Any]) -> None:
        bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
        if len(bad):
            first = ", ".join(map(str, bad[:FIRST_INDICES]))
            raise self._error(f"{name} holds NaN or Inf in {len(bad)} samples (first: {first}); remove or mend them")

    def _check_annotation(self, name: str, array: np.ndarray[Any, Any], samples: int) -> None:
        # A label may be one for each column or position of an output; the comparison says whose it can be.
        if array.ndim == 0 or (array.ndim > 1 and name != LABEL) or len(array) != samples:
            raise self._error(
                f"{name} has shape {array.shape}, but there are {samples} samples; give one value for each"
            )
        if array.dtype.kind not in "biufU":
            raise self._error(f"{name} has dtype {array.dtype.name}; use numbers or text (numpy's str dtype)")
        if name == GROUP and array.dtype.kind not in GROUP_KINDS:
            raise self._error(f"group has dtype {array.dtype.name}; name each group by text or a whole number")
        if name == LABEL and array.dtype.kind == "U":
            raise self._error("label is text; give the right score, or the number of the right class")
        if array.dtype.kind == "f":
            self._check_finite(name, array)


def _shards(spec: DataSpec, files: Sequence[Path], field: str) -> Iterator[Arrays]:
    annotations: set[str] | None = None
    for path in files:
        arrays = with_shared(read_arrays(path), spec)
        samples = _Checker(spec, f"{field}: {path.name}").check(arrays)
        names = set(arrays) - set(spec.inputs)
        if annotations is not None and names != annotations:
            raise InputError(
                f"{field}: {path.name}: has {_listed(names)}, the files before have {_listed(annotations)};"
                " every file needs the same label, group and slices"
            )
        annotations = names
        rows = _rows_per_shard(arrays, samples)
        for alike in alike_in_shared(arrays, spec):
            for start in range(0, len(alike), rows):
                part = alike[start : start + rows]
                whole = len(part) == part[-1] - part[0] + 1  # a slice copies nothing
                taken = slice(int(part[0]), int(part[-1]) + 1) if whole else part
                yield {name: array[taken] for name, array in sorted(arrays.items())}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "neither label, group nor slices"


def _rows_per_shard(arrays: Arrays, samples: int) -> int:
    bytes_per_sample = max(1, sum(array.nbytes for array in arrays.values()) // samples)
    return max(1, min(SHARD_SAMPLES, SHARD_BYTES // bytes_per_sample))
