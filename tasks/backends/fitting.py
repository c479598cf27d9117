"""Which plan of an engine takes an input, and how the input is made to fit.

`compare` runs this, and so does the router in Triton, which has this file beside it: it imports NumPy and the standard
library alone, and takes whatever has the attributes that it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Arrays = Mapping[str, np.ndarray[Any, Any]]


class FitError(ValueError):
    """No plan takes an input."""


class Extents(Protocol):
    """The extents of a named dimension that a plan takes; it is fixed where both are the same."""

    @property
    def min(self) -> int:
        """The smallest."""

    @property
    def max(self) -> int:
        """The largest."""


class Profile(Protocol):
    """What a plan takes of each named dimension."""

    @property
    def dims(self) -> Mapping[str, Any]:
        """`Extents` by dimension."""


class Input(Protocol):
    """Per axis of an input a dimension's name or a fixed extent, and the value that pads it."""

    @property
    def shape(self) -> tuple[str | int, ...]:
        """The axes."""

    @property
    def pad(self) -> int | float:
        """The value."""


P = TypeVar("P", bound=Profile)


def extents_of(feeds: Arrays, inputs: Mapping[str, Input]) -> dict[str, int]:
    """The extent of each named dimension in a batch."""
    return {
        axis: extent
        for name, spec in inputs.items()
        for axis, extent in zip(spec.shape, feeds[name].shape, strict=True)
        if isinstance(axis, str)
    }


def choose_profile(profiles: Sequence[P], extents: Mapping[str, int]) -> P:
    """The profile that `profiles.PROFILE_RULE` says.

    Raises:
        FitError: none holds these extents.
    """
    for profile in profiles:
        if all(_holds(dim, extents[name]) for name, dim in profile.dims.items()):
            return profile
    raise FitError(f"the engine has no profile for {dict(extents)}; keep inputs within the dims that it was built for")


def is_fixed(dim: Extents) -> bool:
    """Whether a plan takes one extent of a dimension alone, to which inputs are padded."""
    return dim.min == dim.max


def _holds(dim: Extents, extent: int) -> bool:
    return extent <= dim.max and (extent >= dim.min or is_fixed(dim))


def pad_inputs(feeds: Arrays, inputs: Mapping[str, Input], profile: Profile) -> dict[str, np.ndarray[Any, Any]]:
    """The batch, padded at the end of each axis to the extents that the profile fixes."""
    padded = {}
    for name, spec in inputs.items():
        array = feeds[name]
        missing = [_missing(profile, axis, extent) for axis, extent in zip(spec.shape, array.shape, strict=True)]
        if any(missing):
            padded[name] = np.full(
                np.add(array.shape, missing), spec.pad, array.dtype
            )  # np.pad takes ten times as long
            padded[name][tuple(map(slice, array.shape))] = array
        else:
            padded[name] = array
    return padded


def _missing(profile: Profile, axis: str | int, extent: int) -> int:
    dim = profile.dims[axis] if isinstance(axis, str) else None
    return int(dim.max) - extent if dim is not None and is_fixed(dim) else 0


def cut_output(
    array: np.ndarray[Any, Any], axes: Sequence[str | int], extents: Mapping[str, int]
) -> np.ndarray[Any, Any]:
    """An output without what came of padding: each axis that is a named dimension, cut to the input's extent."""
    return array[
        tuple(slice(extents[axis]) if isinstance(axis, str) and axis in extents else slice(None) for axis in axes)
    ]
