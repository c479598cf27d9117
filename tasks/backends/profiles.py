"""The plans that an engine consists of, which of them takes an input, and how the input is made to fit."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.declared import Dim, InputSpec
from tasks.errors import InputError, StageError
from tasks.records import EngineProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Arrays = Mapping[str, np.ndarray[Any, Any]]

PROFILE_RULE = (
    "The first profile whose max of every named dimension is at least the input's extent takes the input. Where min"
    " and max of a dimension are the same, the input is padded to it at its end, and the outputs are cut back."
)
MOST_PLANS = 64


def profiles_of(dims: Mapping[str, Dim]) -> tuple[EngineProfile, ...]:
    """One profile for each combination of buckets, smallest first; one for all where no dimension has buckets.

    Raises:
        InputError: there would be more than MOST_PLANS.
    """
    choices = [[Dim(min=b, opt=b, max=b) for b in dim.buckets] if dim.buckets else [dim] for dim in dims.values()]
    count = prod(len(choice) for choice in choices)
    if count > MOST_PLANS:
        raise InputError(
            f"model.yaml: dims: the buckets make {count} plans of every engine; leave at most {MOST_PLANS} combinations"
        )
    combinations = [dict(zip(dims, chosen, strict=True)) for chosen in product(*choices)]
    combinations.sort(key=lambda chosen: prod(dim.max for dim in chosen.values()))
    return tuple(EngineProfile(file=_file_name(dims, chosen), dims=chosen) for chosen in combinations)


def _file_name(dims: Mapping[str, Dim], chosen: Mapping[str, Dim]) -> str:
    fixed = [f"{name}{chosen[name].max}" for name, dim in dims.items() if dim.buckets]
    return "-".join(["engine", *fixed]) + ".plan"


def extents_of(feeds: Arrays, inputs: Mapping[str, InputSpec]) -> dict[str, int]:
    """The extent of each named dimension in a batch."""
    return {
        axis: extent
        for name, spec in inputs.items()
        for axis, extent in zip(spec.shape, feeds[name].shape, strict=True)
        if isinstance(axis, str)
    }


def choose_profile(profiles: Sequence[EngineProfile], extents: Mapping[str, int]) -> EngineProfile:
    """The profile that PROFILE_RULE says.

    Raises:
        StageError: none holds these extents.
    """
    for profile in profiles:
        if all(_holds(dim, extents[name]) for name, dim in profile.dims.items()):
            return profile
    raise StageError(
        f"the engine has no profile for {dict(extents)}; keep inputs within the dims that it was built for"
    )


def _holds(dim: Dim, extent: int) -> bool:
    return extent <= dim.max and (extent >= dim.min or dim.min == dim.max)


def pad_inputs(
    feeds: Arrays, inputs: Mapping[str, InputSpec], profile: EngineProfile
) -> dict[str, np.ndarray[Any, Any]]:
    """The batch, padded at the end of each axis to the extents that the profile fixes."""
    padded = {}
    for name, spec in inputs.items():
        array = feeds[name]
        missing = [_missing(profile, axis, extent) for axis, extent in zip(spec.shape, array.shape, strict=True)]
        if any(missing):
            array = np.pad(array, [(0, count) for count in missing], constant_values=spec.pad)
        padded[name] = array
    return padded


def _missing(profile: EngineProfile, axis: str | int, extent: int) -> int:
    dim = profile.dims[axis] if isinstance(axis, str) else None
    return dim.max - extent if dim is not None and dim.min == dim.max else 0


def cut_output(
    array: np.ndarray[Any, Any], axes: Sequence[str | int], extents: Mapping[str, int]
) -> np.ndarray[Any, Any]:
    """An output without what came of padding: each axis that is a named dimension, cut to the input's extent."""
    return array[
        tuple(slice(extents[axis]) if isinstance(axis, str) and axis in extents else slice(None) for axis in axes)
    ]


def check_outputs_can_be_cut(
    outputs: Mapping[str, Sequence[str | int]], dims: Mapping[str, Dim], batch_dim: str
) -> None:
    """Refuse buckets for a model with an output axis that varies with the input, but is none of its dimensions.

    Raises:
        InputError: naming the output and the axis.
    """
    bucketed = [name for name, dim in dims.items() if dim.buckets and name != batch_dim]
    for name, axes in outputs.items():
        unknown = [axis for axis in axes if isinstance(axis, str) and axis not in dims]
        if bucketed and unknown:
            raise InputError(
                f"model.yaml: dims.{bucketed[0]}.buckets: axis {axes.index(unknown[0])} of output {name} varies with"
                " the input but is no named dimension, so padding could not be cut from it; remove the buckets, or"
                " return an output of another shape"
            )
