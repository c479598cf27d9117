"""Sums over the elements of each sample, which every numeric output has, whatever its shape."""

import numpy as np
from numpy.typing import NDArray

from validation.units import Floats

Numbers = NDArray[np.generic]

NAMES = ("abs", "squares", "reference_squares", "candidate_squares", "products", "elements")
"""Sums of |error|, error^2, reference^2, candidate^2, reference x candidate, and how many elements they are of."""

_BLOCK = 1 << 18  # Elements worked on at once: a float64 copy of a block stays at 2 MiB, however large a batch is.


def element_sums(
    reference: Numbers, candidate: Numbers, mask: NDArray[np.bool_] | None
) -> tuple[dict[str, Floats], Floats]:
    """Sums by name, and the largest absolute error, of every sample, `[n]` each.

    Both sides are `[n, ...]`; `mask`, if any, is `[n]` or `[n, positions]` and leaves out what belongs to padding.
    """
    n = len(reference)
    r, c = reference.reshape(n, -1), candidate.reshape(n, -1)
    counted = None if mask is None else _spread(mask, reference.shape)
    sums = {name: np.zeros(n) for name in NAMES}
    largest = np.zeros(n)
    width = r.shape[1]
    rows, columns = max(1, _BLOCK // width), min(width, _BLOCK)
    for row in range(0, n, rows):
        for column in range(0, width, columns):
            block = np.s_[row : row + rows, column : column + columns]
            part = None if counted is None else counted[block]
            _add_block(sums, largest, row, _wide(r[block], part), _wide(c[block], part))
            count = r[block].shape[1] if part is None else part.sum(axis=1)
            sums["elements"][row : row + rows] += count
    return sums, largest


def _add_block(sums: dict[str, Floats], largest: Floats, row: int, r: Floats, c: Floats) -> None:
    at = np.s_[row : row + len(r)]
    error = np.abs(r - c)
    sums["abs"][at] += row_sums(error)
    np.maximum(largest[at], error.max(axis=1), out=largest[at])
    for name, product in (
        ("squares", error * error),
        ("reference_squares", r * r),
        ("candidate_squares", c * c),
        ("products", r * c),
    ):
        sums[name][at] += row_sums(product)


def row_sums(block: Floats) -> Floats:
    """The sum of each row, in one order of summation however many rows there are, and wherever they lie in memory."""
    flat = np.ascontiguousarray(block).reshape(-1)
    return np.add.reduceat(flat, np.arange(0, flat.size, block.shape[1]))


def _wide(block: Numbers, counted: NDArray[np.bool_] | None) -> Floats:
    wide = block.astype(np.float64, order="C")
    return wide if counted is None else np.where(counted, wide, 0.0)


def unmasked(values: Numbers, mask: NDArray[np.bool_] | None) -> Numbers:
    """The elements of each sample, `[n, elements]`, with 0 where they are padding."""
    flat = values.reshape(len(values), -1)
    return flat if mask is None else np.where(_spread(mask, values.shape), flat, np.zeros((), dtype=flat.dtype))


def positions_of(mask: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which positions count, of outputs of this shape whose last axis is what a position has: `[n, positions]`."""
    of_positions = shape[:-1] if len(shape) > 1 else shape
    return _spread(np.ones(of_positions, dtype=bool) if mask is None else mask, of_positions)


def _spread(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask for every element, `[n, elements]`; a view where it can be."""
    wide = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    return np.broadcast_to(wide, shape).reshape(shape[0], -1)
