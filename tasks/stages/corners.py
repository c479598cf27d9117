"""An engine at every shape at which its export was checked: dims promise a range, and the data may lie in one spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import StageError
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.samples.shapes import Extents, check_shapes, shape_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.backends.interface import Engine
    from tasks.declared import Dim, InputSpec


@dataclass(frozen=True)
class CornerRun:
    """What an engine was given at one shape, what it gave, and what it gave of the same samples in batches of `opt`.

    `way` says how the samples fill the shape.
    """

    way: str
    inputs: Arrays
    expected: Arrays
    found: Arrays


def run_at_corners(
    engine: Engine, declared: Mapping[str, InputSpec], dims: Mapping[str, Dim], inputs: Path, candidate: Path
) -> Iterator[CornerRun]:
    """Run an engine at each check shape that `inputs` have but for the batch, which their samples repeated fill.

    `inputs` and `candidate`, what the engine gave in batches of `opt`, are folders of shards alike. These outputs have
    been compared with the reference, so what another batch does to a sample shows against them.

    Raises:
        StageError: the engine does not run at a shape.
    """
    shards = {shape_label(_extents_of(load_arrays(path), declared)): path.name for path in shard_paths(inputs)}
    batch_dim = next(str(spec.shape[0]) for spec in declared.values())
    for extents in check_shapes(dims):
        others = {name: extent for name, extent in extents.items() if name != batch_dim}
        shard = shards.get(shape_label(dict(sorted(others.items()))))
        if shard is None:  # the module takes no such inputs
            continue
        feeds, expected = (_repeated(load_arrays(folder / shard), extents[batch_dim]) for folder in (inputs, candidate))
        try:
            found = engine.run(feeds)
        except Exception as error:
            raise StageError(f"the engine does not run at {shape_label(extents)}, within dims: {error}") from error
        yield CornerRun(f"repeated to {shape_label(extents)}", feeds, expected, found)


def _extents_of(arrays: Arrays, declared: Mapping[str, InputSpec]) -> Extents:
    """The extent of each named dimension but the first axis, in the order of their names."""
    found = {
        axis: extent
        for name, spec in declared.items()
        for axis, extent in zip(spec.shape[1:], arrays[name].shape[1:], strict=True)
        if isinstance(axis, str)
    }
    return dict(sorted(found.items()))


def _repeated(arrays: Arrays, rows: int) -> Arrays:
    return {name: array[np.arange(rows) % len(array)] for name, array in arrays.items()}
