"""The worst that a sample can be, which no bound may leave out because nobody has seen it.

Where all of n samples are right, one in n/3 of those to come may still be wrong (at 95 %), and by as much as the output
allows: no tail that was seen tells of it. So a mean has a bound only where its numbers have one (Bahadur and Savage
1956). What an output allows is taken from

- its declared range, widened to what was seen where outputs leave it: a score at one end for a reference at the other;
- without a range, the interval that both sides were seen in. That is an assumption, and the only one here;
- of vectors and tensors, the reference turned round, which has the same length: its cosine is -1;
- of what is bounded by its definition (shares, cosines, divergences), that bound.

A limit is therefore out of reach below some number of samples, however good the engine: `mae` of 0.01 of the range
below 300, where 0.995^300 = 22 % of data sets would hold no trace of a fault that costs half of that. The gate is
inconclusive there, and `sample_size` says how many it takes.
"""

import numpy as np

from validation.units import Columns, Units

Ends = tuple[float, float] | None
"""The ends of a declared range; None where there is none."""


def opposite_scores(low: float, high: float, pivot: float) -> Columns:
    """The numbers of two samples, `[2]` each: the reference at an end of what a score can be, the candidate opposite.

    `pivot` is what `r` and `c` are taken from.
    """
    r, c = np.array([low, high]), np.array([high, low])
    error, x, y = c - r, r - pivot, c - pivot
    return {
        "abs": np.abs(error),
        "squares": error * error,
        "reference_squares": r * r,
        "candidate_squares": c * c,
        "products": r * c,
        "elements": np.ones(2),
        "error": error,
        "r": x,
        "c": y,
        "rr": x * x,
        "cc": y * y,
        "rc": x * y,
        "worse": np.abs(error),
    }


def turned_round(units: Units, ends: Ends) -> Columns:
    """The numbers of samples, `[2 units]` each, as long as a side of a unit, whose candidate is the reference times -1.

    With a range the sum of absolute errors is that of elements at its ends; without, it is the mean.
    """
    sums, sizes = units.sums, units.sizes
    squares = np.concatenate([sums[f"{side}_squares"] / sizes for side in ("reference", "candidate")])
    elements = np.tile(sums["elements"] / sizes, 2)
    numbers = {
        "squares": 4 * squares,
        "reference_squares": squares,
        "candidate_squares": squares,
        "products": -squares,
        "elements": elements,
    }
    return numbers if ends is None else numbers | {"abs": (ends[1] - ends[0]) * elements}
