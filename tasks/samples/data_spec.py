"""What samples must be, and the annotations that lie beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tasks.declared import Dim, InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.samples.npz import Arrays


LABEL = "label"
GROUP = "group"
"""What a sample belongs to: samples of one value are one independent sample."""
SLICE = "slice."
_ANY_EXTENT = 1 << 40


class DataSpec(Protocol):
    """What samples are to be: a model's inputs, and the extents that their dimensions may have."""

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        """The inputs by name."""

    @property
    def dims(self) -> Mapping[str, Dim]:
        """The range of each named dimension."""

    @property
    def batch_dim(self) -> str:
        """The dimension that counts samples."""


@dataclass(frozen=True)
class BareSpec:
    """Inputs of a model that is not known: their dimensions may have any extent."""

    inputs: Mapping[str, InputSpec]

    @property
    def dims(self) -> Mapping[str, Dim]:
        """No bounds."""
        names = {axis for tensor in self.inputs.values() for axis in tensor.shape if isinstance(axis, str)}
        return dict.fromkeys(sorted(names), Dim(min=1, opt=1, max=_ANY_EXTENT))

    @property
    def batch_dim(self) -> str:
        """The first axis of every input."""
        return str(next(iter(self.inputs.values())).shape[0])


def slices_in(arrays: Arrays) -> Arrays:
    """The arrays called `slice.<name>`, by that name."""
    return {name.removeprefix(SLICE): array for name, array in arrays.items() if name.startswith(SLICE)}
