"""The plans that an engine consists of; `fitting` says which of them takes an input, and makes the input fit."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING

from tasks.declared import Dim
from tasks.errors import InputError
from tasks.records import EngineProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
