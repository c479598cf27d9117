"""How far two arrays that should hold the same numbers are apart, and how far rounding may take them.

Whole numbers, and true and false, are equal or not: between them the difference is the share of elements that differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

# Float32 sums of the same numbers in another order differ by about 1e-6 of the largest; exported graphs of deep
# encoders were measured at up to 1e-5. A dimension fixed in tracing, or a lost mask, is off by far more than this.
RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5
# Rounding moves a whole number where two classes are as likely, or a score is at its threshold, to seven digits: one
# element in a million or so. A wrong graph moves far more than one in a thousand.
DIFFERING_TOLERANCE = 1e-3
SMALLEST_HALF = float(np.finfo(np.float16).tiny)


def largest_difference(found: Array, expected: Array) -> float:
    """The largest |found - expected| of two arrays of one shape; NaN or Inf where one is not finite.

    NaN or Inf that both have in the same place is agreement; anything else of them is not. Where `expected` holds no
    floats it is the share of elements that differ.
    """
    if are_whole(expected):
        return float((found != expected).mean()) if expected.size else 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    difference[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0
    return float(difference.max(initial=0))


def are_whole(array: Array) -> bool:
    """Whether an array holds whole numbers, or true and false."""
    return array.dtype.kind in "iub"


def difference_in_words(difference: float, expected: Array) -> str:
    """`0.02`, or `2 % of its elements`."""
    return f"{100 * difference:.3g} % of its elements" if are_whole(expected) else f"{difference:.3g}"


def relative_error(found: Array, expected: Array) -> float:
    """The L2 norm of found - expected over that of expected, where expected is finite; NaN where only found is not.

    What half precision cannot tell from zero, 6e-5 in each element, counts for nothing. Of whole numbers: the share
    that differs.
    """
    if are_whole(expected):
        return largest_difference(found, expected)
    finite = np.isfinite(expected)
    ours, theirs = found[finite].astype(np.float64), expected[finite].astype(np.float64)
    error = np.maximum(np.abs(ours - theirs) - SMALLEST_HALF, 0)
    if not error.any():  # of zeros too
        return 0.0
    return float(np.linalg.norm(error) / max(float(np.linalg.norm(theirs)), SMALLEST_HALF))


def allowed_difference(expected: Array, slack: float = 1.0) -> float:
    """1e-5 + 1e-4 of the largest finite magnitude, in the array's own unit; `slack` times as much where asked.

    Of whole numbers, and of true and false, one element in a thousand.
    """
    if are_whole(expected):
        return slack * DIFFERING_TOLERANCE
    finite = np.abs(expected[np.isfinite(expected)])
    return slack * (ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * float(finite.max(initial=0)))
