"""Seeded samples from what a source says of its inputs, for where there are no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.imports.declared_inputs import MASK, SEQUENCE
from tasks.imports.draft import BATCH
from tasks.imports.logged_example import EXAMPLE
from tasks.readers.interface import InputHint, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tasks.imports.declared_inputs import Declared, DeclaredInput
    from tasks.samples.npz import Arrays

EXTENTS = (16, 32, 64, 128)
"""What dimensions without bounds get, each a group."""
LARGEST = 1000
"""Whole numbers that stand for names stay below, where the source says nothing of them."""


def make_synthetic(declared: Declared | None, samples: int, longest: int | None, seed: int, origin: str) -> Reading:
    """`samples` samples by `seed`: floats normal, tokens uniform with padding at the end, masks to match.

    Where the source carries an example, shapes and the range of values are its own.

    Raises:
        InputError: the source does not say what its inputs are.
    """
    if declared is None:
        raise InputError(
            f"{origin}: does not say the shapes of its inputs, as an ONNX file, a .pt2 or the config.json of a text or"
            " image model does; bring data with --data in place of --synthetic"
        )
    rng = np.random.default_rng(seed)
    named = any(isinstance(axis, str) and axis != BATCH for one in declared.inputs.values() for axis in one.shape)
    shown = all(one.example is not None for one in declared.inputs.values())
    counts = np.diff(np.linspace(0, samples, (len(EXTENTS) if named and not shown else 1) + 1).astype(int))
    groups = [_group(declared, int(count), place, longest, rng) for place, count in enumerate(counts.tolist()) if count]
    why = f"made by seed {seed} within {EXAMPLE if shown else declared.by}"
    hints = {name: InputHint((), one.pad, why) for name, one in declared.inputs.items()}
    return Reading(tuple(groups), hints, (f"{samples:,} made-up samples: engines of them stay candidates",))


def _group(declared: Declared, count: int, place: int, longest: int | None, rng: np.random.Generator) -> Arrays:
    extents = {
        axis: _extent(axis, declared.bounds, place, longest)
        for one in declared.inputs.values()
        for axis in one.shape[1:]
        if isinstance(axis, str)
    }
    for one in declared.inputs.values():
        if one.example is not None:
            extents |= {axis: size for axis, size in zip(one.shape, one.example.shape, strict=True) if axis in extents}
    arrays: Arrays = {}
    for name, one in declared.inputs.items():
        within = [extents[axis] if isinstance(axis, str) else axis for axis in one.shape[1:]]
        shape = (count, *(_shown(one, place) if axis is None else axis for place, axis in enumerate(within, 1)))
        arrays[name] = _values(name, one, shape, rng)
    _pad(declared, arrays, rng)
    return arrays


def _extent(axis: str, bounds: Mapping[str, tuple[int, int]], place: int, longest: int | None) -> int:
    low, high = bounds.get(axis, (1, max(EXTENTS)))
    if longest is not None and axis == SEQUENCE:
        high = min(high, longest)
    return min(max(EXTENTS[place], low), high)


def _shown(one: DeclaredInput, axis: int) -> int:
    assert one.example is not None  # noqa: S101 - it alone leaves an axis open without a name
    return int(one.example.shape[axis])


def _values(
    name: str, one: DeclaredInput, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if one.dtype == "bool" or "mask" in name:
        return np.ones(shape, one.dtype)
    if one.example is not None and one.example.size:
        return _like(one.example, one.dtype, shape, rng)
    if one.dtype.startswith("float"):
        return rng.normal(size=shape).astype(one.dtype)
    highest = min(one.highest or LARGEST, np.iinfo(one.dtype).max)
    if "token_type" in name:
        return np.zeros(shape, one.dtype)
    return rng.integers(0, highest, shape, endpoint=True).astype(one.dtype)


def _like(
    example: NDArray[Any], dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Uniform within the values of an example; of a matrix of fractions within those of each column, as of a table."""
    if np.dtype(dtype).kind != "f":
        return rng.integers(int(example.min()), int(example.max()), shape, endpoint=True).astype(dtype)
    own = example.ndim == 2 and example.shape[1:] == shape[1:]  # noqa: PLR2004 - samples and columns
    axis = 0 if own else None
    low, high = example.min(axis).astype(np.float64), example.max(axis).astype(np.float64)
    width = np.where(low == 0, 1.0, np.abs(low))
    low, high = np.where(low == high, low - width, low), np.where(low == high, high + width, high)
    return rng.uniform(low, high, shape).astype(dtype)


def _pad(declared: Declared, arrays: Arrays, rng: np.random.Generator) -> None:
    """Texts of differing lengths below the group's own: a mask that never is zero tells nothing."""
    mask = arrays.get(MASK)
    if mask is None or mask.ndim != 2:  # noqa: PLR2004 - samples and positions
        return
    positions = mask.shape[1]
    lengths = rng.integers(max(1, positions // 2), positions, len(mask), endpoint=True)
    beyond = np.arange(positions) >= lengths[:, None]
    mask[beyond] = 0
    for name, array in arrays.items():
        if array.shape == mask.shape and array.dtype.kind in "iu" and name != MASK:
            array[beyond] = declared.inputs[name].pad
