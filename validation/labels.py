"""Outputs whose elements are names: whole numbers, or true and false, which are equal or not, and nothing between."""

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Mask, Readers
from validation.bootstrap import Draws, Interval
from validation.catalogue import Direction, Reading, entry
from validation.elements import Numbers, positions_of
from validation.outputs import OutputKind
from validation.sample_numbers import SampleNumbers, counts, drop_reading, label_readers, share_reading
from validation.units import Columns, Floats

METRICS = (
    entry(
        "agreement",
        frozenset({OutputKind.LABELS, OutputKind.SEGMENTATION, OutputKind.CTC}),
        Direction.HIGHER_IS_BETTER,
        "share of elements (positions, frames) whose label is the reference's, compared exactly",
        "observed agreement of Cohen 1960, Educ. Psychol. Meas. 20; fidelity of Stanton et al. 2021",
        worst=0.0,
        share=True,
    ),
)


class LabelAgreement(SampleNumbers):
    """See `Accumulator`; both sides are `[n, ...]` of whole numbers or booleans, and so are labels.

    A sample with several elements counts as one unit: its elements are no samples of their own.
    """

    def __init__(self, *, with_label: bool) -> None:
        super().__init__(("same", "elements", "right_r", "right_c"), "elements", with_label=with_label)
        self._largest = 0.0

    def _numbers(self, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask) -> Columns:
        n, counted = len(reference), elements_of(mask, reference.shape)
        wanted = None if label is None else label.reshape(reference.shape)
        far = distances(reference, candidate).reshape(n, -1)
        self._largest = max(self._largest, float(np.where(counted, far, 0).max(initial=0)))

        def equal(side: Numbers, other: Numbers | None) -> Floats:
            return np.zeros(n) if other is None else counts((side == other).reshape(n, -1) & counted)

        return {
            "same": equal(candidate, reference),
            "elements": counts(counted),
            "right_r": equal(reference, wanted),
            "right_c": equal(candidate, wanted),
        }

    def _readers(self, draws: Draws, n: int) -> Readers:
        known = Interval(low=self._largest, low_seen=self._largest)
        readers: Readers = {
            "agreement": lambda: share_reading(draws, n, "same", "elements"),
            "max_abs": lambda: Reading(value=self._largest, n=n, interval=known),
        }
        if not self._with_label:
            return {**readers, **label_readers(("accuracy_drop",), n)}
        drop = ("right_r", "right_c")
        return {**readers, "accuracy_drop": lambda: drop_reading(draws, n, drop, "elements")}


def elements_of(mask: Mask, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which elements count, `[n, elements]`, of outputs of this shape."""
    return positions_of(mask, (*shape, 1))


def distances(reference: Numbers, candidate: Numbers) -> NDArray[np.uint64]:
    """|candidate - reference| of whole numbers, exact however large they are; 1 between true and false.

    >>> distances(np.array([2**53, -(2**63)]), np.array([2**53 + 1, 2**63 - 1])).tolist()
    [1, 18446744073709551615]
    """
    r, c = (side.astype(np.int64).view(np.uint64) for side in (reference, candidate))
    return np.asarray(np.where(np.greater(candidate, reference), c - r, r - c))
