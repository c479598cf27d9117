"""What values of inputs are possible at which extents: declared in model.yaml, or seen in the data.

Inputs of another extent are cut or repeated from samples. Lengths and positions must go along, and a mask that lost all
that it keeps has no meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.layouts import dim_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.declared import Bound, InputSpec
    from tasks.samples.npz import Arrays

    Array = np.ndarray[Any, Any]

LENGTHS = "len"


@dataclass(frozen=True)
class Follows:
    """An input whose values were never above the extent of `dim` plus `lead`, which is 0 (lengths) or -1 (positions).

    `low` is the smallest value seen.
    """

    dim: str
    lead: int
    low: int


def value_bounds(spec: InputSpec, extents: Mapping[str, int]) -> tuple[float, float]:
    """The interval of an input that declares a range, at these extents; the upper bound wins over the lower."""
    low, high = (_resolved(bound, extents) for bound in spec.range or (-np.inf, np.inf))
    return min(low, high), high


def _resolved(bound: Bound, extents: Mapping[str, int]) -> float:
    if not isinstance(bound, str):
        return bound
    _, _, less = bound.partition("-")
    return extents[dim_of(bound)] - int(less or 0)


def follows_an_extent(spec: InputSpec) -> bool:
    """Whether the upper bound of its range is a dimension's extent itself, as that of lengths."""
    return spec.range is not None and isinstance(spec.range[1], str) and "-" not in spec.range[1]


def find_followers(
    shards: Iterable[Arrays], inputs: Mapping[str, InputSpec], dims: Iterable[str]
) -> dict[str, Follows]:
    """The whole numbers that were at most the extent of a dimension which they do not have, in every shard.

    They reached it, or one less, somewhere, or they are called lengths: classes and kinds are below it by chance.
    """
    wanted = [name for name, spec in inputs.items() if spec.range is None and not spec.dtype.startswith(("f", "b"))]
    leads: dict[tuple[str, str], int] = {}
    lows: dict[str, int] = {}
    highs: dict[str, int] = {}
    dims = tuple(dims)
    for shard in shards if wanted else ():
        extents = extents_of(shard, inputs)
        for name in wanted:
            low, high = int(shard[name].min(initial=0)), int(shard[name].max(initial=0))
            lows[name], highs[name] = min(lows.get(name, low), low), max(highs.get(name, high), high)
            for dim in dims:
                if dim not in inputs[name].shape:
                    leads[name, dim] = max(leads.get((name, dim), -extents[dim]), high - extents[dim])
    found: dict[str, Follows] = {}
    for (name, dim), lead in sorted(leads.items(), key=lambda entry: entry[1]):  # the tightest comes last, and stays
        follows = lead in {0, -1} or (lead < 0 and LENGTHS in name.lower())
        if follows and lows[name] >= 0 and highs[name] > 1:
            found[name] = Follows(dim, max(lead, -1), lows[name])
    return found


def extents_of(arrays: Arrays, inputs: Mapping[str, InputSpec]) -> dict[str, int]:
    """The extents of the named dimensions in these arrays."""
    return {
        axis: extent
        for name, spec in inputs.items()
        for axis, extent in zip(spec.shape, arrays[name].shape, strict=True)
        if isinstance(axis, str)
    }


def fit_values(array: Array, spec: InputSpec, follows: Follows | None, extents: Mapping[str, int]) -> Array:
    """The values, kept within what is possible at these extents."""
    if spec.range is not None:
        low, high = value_bounds(spec, extents)
        return np.asarray(array.clip(low, high)).astype(array.dtype)
    if follows is not None:
        limit = max(extents[follows.dim] + follows.lead, min(follows.low, extents[follows.dim]))
        return np.minimum(array, limit).astype(array.dtype)
    return array


def loses_a_mask(whole: Array, cut: Array) -> bool:
    """Whether a row of zeros and ones, first axis the rows, has ones in the whole and none in the cut."""
    if whole.dtype.kind not in "iub" or whole.ndim < 2 or whole.min(initial=0) < 0 or whole.max(initial=0) > 1:  # noqa: PLR2004 - rows and positions
        return False
    rows = min(len(whole), len(cut))
    return bool((_has_ones(whole[:rows]) & ~_has_ones(cut[:rows])).any())


def _has_ones(rows: Array) -> Array:
    return np.asarray((rows != 0).reshape(len(rows), -1).any(axis=1))
