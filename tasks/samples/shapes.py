"""Shapes at which a model is traced and checked, their names, and inputs for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.samples.feeds import make_feeds
from tasks.samples.possible import follows_an_extent, value_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.declared import Dim, InputSpec
    from tasks.samples.npz import Arrays

Extents = dict[str, int]

SEED = 20261120
ONES_SHARE = 0.75


def shape_label(extents: Mapping[str, int]) -> str:
    """`batch=8,sequence=128`; `fixed` where no dimension has a name."""
    return ",".join(f"{name}={extent}" for name, extent in extents.items()) or "fixed"


def fixed_dims(dims: Mapping[str, Dim]) -> Extents:
    """The dimensions that have one extent only: they become constants of the graph."""
    return {name: dim.min for name, dim in dims.items() if dim.min == dim.max}


def optimal_extents(dims: Mapping[str, Dim]) -> Extents:
    """Every dimension at its `opt`."""
    return {name: dim.opt for name, dim in dims.items()}


def check_shapes(dims: Mapping[str, Dim]) -> list[Extents]:
    """All at min, opt and max; each dimension's own extremes around opt; and one odd shape between. No repeats."""
    optimal = optimal_extents(dims)
    shapes = [
        {name: dim.min for name, dim in dims.items()},
        optimal,
        {name: dim.max for name, dim in dims.items()},
        {name: _odd_between(dim) for name, dim in dims.items()},
    ]
    for name, dim in dims.items():
        shapes += [{**optimal, name: dim.min}, {**optimal, name: dim.max}]
    return [shape for number, shape in enumerate(shapes) if shape not in shapes[:number]]


def _odd_between(dim: Dim) -> int:
    """An odd multiple of the dimension's step, which no halving by the module takes without a rest."""
    middle = ((dim.min + dim.max) // dim.step // 2 | 1) * dim.step
    between = range(middle, dim.max, dim.step)
    odd = (extent for extent in between if extent // dim.step % 2 and extent not in {dim.min, dim.opt})
    return next(odd, dim.opt)


def trace_extents(dims: Mapping[str, Dim]) -> Extents:
    """Extents near opt that differ from each other and from 1 where they can.

    A tracer takes two equal extents for one and the same dimension, and 1 for one that broadcasts.
    """
    taken = {1}
    extents = {}
    for name, dim in dims.items():
        nearest = (dim.opt + step * dim.step * side for step in range(len(dims) + 2) for side in (1, -1))
        free = (extent for extent in nearest if dim.min <= extent <= dim.max and extent not in taken)
        extents[name] = next(free, dim.opt)
        taken.add(extents[name])
    return extents


def feeds_at(samples: Path | None, inputs: Mapping[str, InputSpec], extents: Mapping[str, int]) -> Arrays:
    """Inputs of the wanted extents: real samples, cut or tiled, or seeded ones where there are none."""
    if samples is not None:
        return make_feeds(samples, inputs, extents)
    return seeded_feeds(inputs, extents)


def seeded_feeds(inputs: Mapping[str, InputSpec], extents: Mapping[str, int]) -> Arrays:
    """Inputs without data: of declared ranges; otherwise floats are standard normal, integers 0 or 1, first of all 1.

    Nothing says how large a vocabulary is, and 0 and 1 lie in every one; as a mask they leave no row empty.
    """
    generator = np.random.default_rng(SEED)
    feeds = {}
    for name, spec in inputs.items():
        shape = [extents[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.range is not None:
            values = _within(spec, shape, extents, generator)
        elif spec.dtype.startswith("float"):
            values = generator.standard_normal(shape)
        else:
            values = (generator.random(shape) < ONES_SHARE).astype(np.float64)
            values[..., 0] = 1
        feeds[name] = (values[:1].repeat(len(values), axis=0) if spec.is_shared else values).astype(spec.dtype)
    return feeds


def _within(
    spec: InputSpec, shape: Sequence[int], extents: Mapping[str, int], generator: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.float64]]:
    low, high = value_bounds(spec, extents)
    if spec.dtype.startswith("float"):
        return generator.uniform(low, high, shape)
    values = np.floor(generator.uniform(low, high + 1, shape)).clip(low, high)
    if follows_an_extent(spec):
        values[0] = high
    return values
