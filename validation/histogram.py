"""A histogram of fixed bins of reference and candidate values, for outputs too large to be kept."""

import numpy as np

from validation import statistics
from validation.metrics import Reading
from validation.readings import Readings, binned_kl_reading, ks_readings
from validation.statistics import Counts, Floats

BINS = 65_536


class PairHistogram:
    """Counts of reference and candidate values in `BINS` equal bins over `[low, high]`, and one beyond each end.

    Raises:
        ValueError: when the range is not finite and in order (`low == high`, a constant reference, is allowed).
    """

    def __init__(self, low: float, high: float) -> None:
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"reference range [{low}, {high}]: no interval; give the reference's finite min and max")
        self._low, self._high = float(low), float(high)
        self._scale = BINS / (self._high - self._low) if low < high else 0.0
        self.reference: Counts = np.zeros(BINS + 2, dtype=np.int64)
        self.candidate: Counts = np.zeros(BINS + 2, dtype=np.int64)

    def update(self, reference: Floats, candidate: Floats) -> None:
        """Count the values of one block, any shape."""
        self.reference += self._count(reference)
        self.candidate += self._count(candidate)

    def _count(self, values: Floats) -> Counts:
        wide = np.ravel(values).astype(np.float64)
        inside = (np.clip(wide, self._low, self._high) - self._low) * self._scale
        bins = np.minimum(inside.astype(np.int64), BINS - 1) + 1
        bins[wide < self._low] = 0
        bins[wide > self._high] = BINS + 1
        return np.bincount(bins, minlength=BINS + 2).astype(np.int64)

    @property
    def resolution(self) -> float:
        """How far D of the values can lie above D at the bin edges: the largest share of either side in one bin."""
        return float(max(side.max() / side.sum() for side in (self.reference, self.candidate)))

    def ks_readings(self, n: int) -> Readings:
        """`ks` at the bin edges and `ks_pvalue` by the number of values counted; `n` is the number of samples."""
        d = statistics.ks_of_counts(self.reference, self.candidate)
        note = f"at bin edges; D of the values is at most {min(1.0, d + self.resolution):.3g}"
        return ks_readings(d, int(self.reference.sum()), n, note)

    def kl_reading(self, n: int, *, equal: bool) -> Reading:
        """`kl` over the bins merged to tenths of the reference; `equal` says that no pair differed."""
        starts = np.concatenate([[0], statistics.decile_starts(self.reference)])
        reference, candidate = np.add.reduceat(self.reference, starts), np.add.reduceat(self.candidate, starts)
        return binned_kl_reading(reference, candidate, n, equal=equal)
