"""Inputs, their dtypes and their dimensions, from the samples that are there and from what the source says."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from tasks.declared import Dtype
from tasks.errors import InputError
from tasks.imports.draft import BATCH, Guess
from tasks.imports.logged_example import EXAMPLE
from tasks.readers.annotations import is_annotation
from tasks.readers.interface import UNNAMED, InputHint, Reading
from tasks.readers.lazy_groups import map_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tasks.imports.declared_inputs import Declared
    from tasks.samples.npz import Arrays

    Seen = tuple[tuple[int, ...], np.dtype[Any]]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BATCHES = {"min": 1, "opt": 8, "max": 32}
DEFAULT_AXES = {
    ("whole", 2): ("sequence",),
    ("float", 3): ("frames", "features"),
    ("float", 4): ("channels", "height", "width"),
}
"""Names of the axes after the samples', by kind of number and number of axes."""
DTYPES = get_args(Dtype)


@dataclass(frozen=True)
class InputGuesses:
    """Samples as the model takes them, and what model.yaml says of inputs and dimensions.

    `unlike` says in which extents the samples differ from an example that the source carries.
    """

    groups: Sequence[Arrays]
    inputs: Mapping[str, Guess]
    dims: Mapping[str, Guess]
    unlike: tuple[str, ...] = ()

    def renamed(self, names: Mapping[str, str]) -> InputGuesses:
        """The same with other names of inputs."""
        return InputGuesses(
            map_groups(self.groups, partial(_renamed, names=names)) if names else self.groups,
            {names.get(name, name): guess for name, guess in self.inputs.items()},
            self.dims,
            self.unlike,
        )


def _renamed(group: Arrays, names: Mapping[str, str]) -> Arrays:
    return {names.get(name, name): array for name, array in group.items()}


def guess_inputs(reading: Reading, declared: Declared | None, origin: str) -> InputGuesses:
    """Infer inputs and dimensions.

    Raises:
        InputError: an array is no number, holds NaN, or is not what the source declares.
    """
    groups = _with_declared_names(reading.groups, declared)
    seen = [{name: (array.shape, array.dtype) for name, array in group.items()} for group in groups]
    names = [name for name in seen[0] if not is_annotation(name)]
    if not names:
        raise InputError(f"{origin}: has no input ({', '.join(seen[0])}); bring a column that the model takes")
    declared = _with_name_of_data(names, declared)
    _refuse_undeclared(names, declared, origin)
    hints = {next(iter(names)) if name == UNNAMED else name: hint for name, hint in reading.hints.items()}
    inputs: dict[str, Guess] = {}
    axes = _Axes(seen, declared)
    dtypes: dict[str, str] = {}
    for name in names:
        dtypes[name], why = _dtype_of(name, [group[name][1] for group in seen], declared, origin)
        hint = hints.get(name, InputHint())
        value: dict[str, Any] = {"dtype": dtypes[name], "shape": [BATCH, *axes.name_axes(name, hint, origin)]}
        if hint.pad:
            value["pad"] = hint.pad
        if declared is not None and name in declared.inputs and declared.inputs[name].highest not in {None, 1}:
            value["range"] = [0, declared.inputs[name].highest]
            why = f"{why}; range: the vocabulary of {declared.by}".removeprefix("; ")
        parts = (hint.why, why, _shown(name, declared))
        inputs[name] = Guess(value, "; ".join(part for part in parts if part))
    cast = map_groups(groups, partial(_as_declared, dtypes=dtypes, declared=declared, origin=origin))
    for _ in cast:  # what cannot be cast is told now
        pass
    bounds = {} if declared is None else declared.bounds
    return InputGuesses(cast, inputs, {BATCH: _batch(bounds.get(BATCH)), **axes.dims}, tuple(axes.unlike))


def _example_of(name: str, declared: Declared | None) -> NDArray[Any] | None:
    return None if declared is None or name not in declared.inputs else declared.inputs[name].example


def _shown(name: str, declared: Declared | None) -> str:
    example = _example_of(name, declared)
    if example is None or not example.size:
        return ""
    return f"{EXAMPLE} has {list(example.shape)}, values from {float(example.min()):.4g} to {float(example.max()):.4g}"


def _with_declared_names(groups: Sequence[Arrays], declared: Declared | None) -> Sequence[Arrays]:
    """With the one declared input in place of one that the data do not name."""
    if declared is None or len(declared.inputs) != 1:
        return groups
    (only,) = declared.inputs
    return map_groups(groups, partial(_renamed, names={UNNAMED: only}))


def _with_name_of_data(names: Sequence[str], declared: Declared | None) -> Declared | None:
    """With the name of the only input in the data, where what declares it says none."""
    if declared is None or UNNAMED not in declared.inputs or len(names) != 1:
        return declared
    return replace(declared, inputs={names[0]: declared.inputs[UNNAMED]})


def _refuse_undeclared(names: Sequence[str], declared: Declared | None, origin: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise InputError(
                f"{origin}: column {name!r} cannot be the name of an input; give it another: --column NAME=input_name"
            )
    if declared is None or declared.by == "config.json":  # which says what texts take, and not what else there may be
        return
    for name in names:
        if name not in declared.inputs and name != UNNAMED:
            raise InputError(
                f"{origin}: column {name!r} is no input of {declared.by} ({', '.join(declared.inputs)}); name it so:"
                f" --column {name}=input_name, make it slice.{name}, or leave it out with --leave-out {name}"
            )
    for name in declared.inputs:
        if name not in names and UNNAMED not in names:
            raise InputError(f"{origin}: has no {name!r}, which {declared.by} takes; add it, or name it with --column")


def _dtype_of(name: str, dtypes: Sequence[np.dtype[Any]], declared: Declared | None, origin: str) -> tuple[str, str]:
    for dtype in dtypes:
        if dtype.kind not in "iufb":
            raise InputError(f"{origin}: {name} is {dtype.name}, which no engine takes; save it as numbers")
    found = np.result_type(*dtypes).name
    if declared is not None and name in declared.inputs and declared.inputs[name].dtype in DTYPES:
        wanted = declared.inputs[name].dtype
        if np.dtype(wanted).kind in "iub" and np.dtype(found).kind == "f":
            raise InputError(f"{origin}: {name} is {found}, and {declared.by} takes {wanted}; save it as {wanted}")
        return wanted, "" if wanted == found else f"{wanted} as {declared.by} says, not {found} as in the data"
    if found in {"float64", "float16"}:
        return "float32", f"{found} in the data, and modules are run in float32"
    if found in DTYPES:
        return found, ""
    if np.dtype(found).kind == "u" and np.dtype(found).itemsize < np.dtype(np.int64).itemsize:
        return "int64", f"{found} in the data, which PyTorch hardly computes with"
    raise InputError(f"{origin}: {name} is {found}, which no engine takes; save it as numbers")


def _as_declared(group: Arrays, dtypes: Mapping[str, str], declared: Declared | None, origin: str) -> Arrays:
    """A group with its inputs in their dtypes."""
    inputs = {name: _as_dtype(group[name], dtype, name, origin) for name, dtype in dtypes.items()}
    for name, array in inputs.items():
        if declared is not None and name in declared.inputs:
            _refuse_strange_tokens(name, array, declared, origin)
    return {**group, **inputs}


def _as_dtype(array: np.ndarray[Any, Any], dtype: str, name: str, origin: str) -> np.ndarray[Any, Any]:
    if np.dtype(dtype).kind in "iu" and array.dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            raise InputError(f"{origin}: {name} holds {low} to {high}, which {dtype} cannot; correct it")
    with np.errstate(over="ignore"):  # what does not fit becomes Inf, and that is told
        return _finite(array.astype(dtype, copy=False), name, origin)


def _refuse_strange_tokens(name: str, array: np.ndarray[Any, Any], declared: Declared, origin: str) -> None:
    highest = declared.inputs[name].highest
    found = int(array.max()) if array.size else 0
    if highest is not None and highest > 1 and found > highest:  # a mask ends at 1
        raise InputError(
            f"{origin}: {name} holds {found:,}, and the vocabulary of {declared.by} ends at {highest:,}: these are the"
            " numbers of another model's tokenizer; name the model's own by --processor DIR"
        )


def _finite(array: np.ndarray[Any, Any], name: str, origin: str) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise InputError(
            f"{origin}: {name} holds NaN or Inf in {len(bad):,} rows (first: {bad[0]}); correct or remove them"
        )
    return array


def fixed_batch(samples: int, why: str) -> Guess:
    """`dims.batch` of a module that takes one number of samples alone."""
    value = dict.fromkeys(("min", "opt", "max"), samples)
    return Guess(value, f"samples of a call, always {samples:,}: {why}")


def _batch(bounds: tuple[int, int] | None) -> Guess:
    if bounds is None:
        return Guess(dict(BATCHES), "samples of a call: no data say this, so choose what serving sends")
    low, high = bounds
    if low == high:
        return fixed_batch(low, "the source was exported for that alone")
    value = {"min": low, "opt": min(max(BATCHES["opt"], low), high), "max": min(max(BATCHES["max"], low), high)}
    return Guess(value, f"samples of a call: the source was exported for {low:,} to {high:,}")


class _Axes:
    """Names of axes: those that vary together have one name."""

    def __init__(self, seen: Sequence[Mapping[str, Seen]], declared: Declared | None) -> None:
        self._seen = seen
        self._declared = declared
        self._weights = [next(iter(group.values()))[0][0] for group in seen]
        self.dims: dict[str, Guess] = {}
        self._extents: dict[str, tuple[int, ...]] = {}
        self.unlike: list[str] = []

    def name_axes(self, name: str, hint: InputHint, origin: str) -> list[str | int]:
        """A name or an extent for each axis after the samples'."""
        shapes = [group[name][0] for group in self._seen]
        if len({len(shape) for shape in shapes}) > 1:
            raise InputError(f"{origin}: {name} has not the same number of axes in every file; correct it")
        said = self._declared_shape(name, shapes[0], origin)
        kind = "float" if self._seen[0][name][1].kind == "f" else "whole"
        defaults = hint.axes or DEFAULT_AXES.get((kind, len(shapes[0])), ())
        found: list[str | int] = []
        for axis in range(1, len(shapes[0])):
            extents = tuple(shape[axis] for shape in shapes)
            wanted = said[axis] if said else None
            if isinstance(wanted, int) and set(extents) != {wanted}:
                wrong = next(extent for extent in extents if extent != wanted)
                raise InputError(f"{origin}: axis {axis} of {name} is {wrong}, and the source takes {wanted} only")
            varies = len(set(extents)) > 1 or isinstance(wanted, str) or (hint.axes == ("sequence",) and axis == 1)
            default = defaults[axis - 1] if axis <= len(defaults) else f"{name}_axis{axis}"
            found.append(self._dim(wanted or default, name, extents, axis) if varies else extents[0])
            self._compare_example(name, axis, extents)
        return found

    def _compare_example(self, name: str, axis: int, extents: tuple[int, ...]) -> None:
        example = _example_of(name, self._declared)
        low, high = min(extents), max(extents)
        if example is not None and not low <= example.shape[axis] <= high:
            there = f"{low}" if low == high else f"{low} to {high}"
            self.unlike.append(f"axis {axis} of {name} is {there} in the data, and {example.shape[axis]} in {EXAMPLE}")

    def _declared_shape(self, name: str, shape: tuple[int, ...], origin: str) -> tuple[str | int | None, ...] | None:
        if self._declared is None or name not in self._declared.inputs:
            return None
        said = self._declared.inputs[name].shape
        if len(said) != len(shape):
            raise InputError(f"{origin}: {name} has {len(shape)} axes, and {self._declared.by} takes {len(said)}")
        return said

    def _dim(self, wanted: str | int, name: str, extents: tuple[int, ...], axis: int) -> str:
        dim = str(wanted)
        if self._extents.setdefault(dim, extents) != extents:
            dim = f"{name}_axis{axis}"
            self._extents[dim] = extents
        if dim not in self.dims:
            low, middle, high = min(extents), self._median(extents), max(extents)
            why = f"{low} to {high} in the data, and the median sample has {middle}"
            if low == high:
                why = f"always {low} in the data; widen it if serving sends others"
            self.dims[dim] = Guess({"min": low, "opt": middle, "max": high}, why)
        return dim

    def _median(self, extents: Sequence[int]) -> int:
        """The extent of the sample in the middle."""
        order = np.argsort(extents, kind="stable")
        reached = np.cumsum(np.asarray(self._weights)[order])
        return int(extents[order[np.searchsorted(reached, reached[-1] / 2)]])
