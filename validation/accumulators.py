"""What is kept of an output while its batches stream by: exact pairs of a score column, sums and counts of the rest.

Batches may be cut anywhere: counts and D come out the same, sums to rounding (merged as by Chan et al. 1983).
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from validation import statistics
from validation.histogram import PairHistogram
from validation.metrics import read
from validation.moments import PairMoments, merge_moments, pair_moments
from validation.readings import Readings, binned_kl_reading, ks_readings, moment_readings
from validation.statistics import Floats

Numbers = NDArray[Any]

_BLOCK = 1 << 18  # Elements worked on at once: a float64 copy of a block stays at 2 MiB, however large a batch is.
_GROWTH = 1.25


class Accumulator(Protocol):
    """Takes pairs of equally shaped, finite, non-empty batches (first axis samples), and gives readings by metric."""

    def update(self, reference: Numbers, candidate: Numbers) -> None:
        """Take in one batch."""

    def readings(self) -> Readings:
        """The value of every metric that this accumulator knows, of all batches so far."""


class _GrowingColumn:
    """A one-dimensional float32 or float64 array that grows by a quarter when it is full."""

    def __init__(self) -> None:
        self._buffer: Floats = np.empty(0, dtype=np.float32)
        self._size = 0

    def append(self, values: Numbers) -> None:
        narrow = np.can_cast(values.dtype, np.float32)
        dtype = np.promote_types(self._buffer.dtype, np.float32 if narrow else np.float64)
        size = self._size + values.size
        if size > self._buffer.size or dtype != self._buffer.dtype:
            grown = np.empty(max(size, int(self._size * _GROWTH)), dtype=dtype)
            grown[: self._size] = self.values
            self._buffer = grown
        self._buffer[self._size : size] = values
        self._size = size

    @property
    def values(self) -> Floats:
        return self._buffer[: self._size]

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes


class ScoreColumn:
    """One column of a score output; keeps every pair, in the width it came in: 8 to 20 bytes a pair.

    `span` is the width of the declared range, None where none is declared. Values that float32 holds exactly (float16,
    float32, small integers) are kept as float32, all others as float64.
    """

    def __init__(self, *, span: float | None = None) -> None:
        self._span = span
        self._reference, self._candidate = _GrowingColumn(), _GrowingColumn()

    def update(self, reference: Numbers, candidate: Numbers) -> None:
        """Take in one batch of shape `[n]` on either side."""
        self._reference.append(reference)
        self._candidate.append(candidate)

    @property
    def pairs(self) -> tuple[Floats, Floats]:
        """Reference and candidate values so far, `[n]` each, in the order they came; views, not to be written to."""
        return self._reference.values, self._candidate.values

    @property
    def nbytes(self) -> int:
        """Bytes held for the pairs, spare room included."""
        return self._reference.nbytes + self._candidate.nbytes

    def readings(self) -> Readings:
        """Every metric of a score column, exact."""
        reference, candidate = self.pairs
        n = reference.size
        if n == 0:
            return {}
        moments = PairMoments()
        for r, c in zip(statistics.blocks(reference), statistics.blocks(candidate), strict=True):
            moments = merge_moments(moments, pair_moments(r, c))
        mae = moments.error_sum / n
        in_range = read(mae / self._span, n) if self._span else read(None, n, "the output declares no range")
        edges = statistics.decile_edges(reference)
        counts = [statistics.bin_counts(side, edges) for side in (reference, candidate)]
        return {
            **moment_readings(moments, n),
            "mae_range": in_range,
            **ks_readings(statistics.ks_two_sample(reference, candidate), n, n),
            "kl": binned_kl_reading(counts[0], counts[1], n, equal=moments.error_max == 0),
        }


class TensorMoments:
    """Running moments and a histogram of an output whose values are never kept: 1 MiB, whatever their number.

    `bounds` are the reference's smallest and largest value; without them there is no histogram, and what needs one is
    undefined.
    """

    def __init__(self, bounds: tuple[float, float] | None) -> None:
        self._samples = 0
        self._moments = PairMoments()
        self._histogram = PairHistogram(*bounds) if bounds else None

    def update(self, reference: Numbers, candidate: Numbers) -> None:
        """Take in one batch of shape `[n, ...]` on either side."""
        self._samples += reference.shape[0]
        for r, c in _flat_blocks(reference, candidate):
            self._moments = merge_moments(self._moments, pair_moments(r, c))
            if self._histogram:
                self._histogram.update(r, c)

    def readings(self) -> Readings:
        """`mae`, `max_abs`, `rmse`, `relative_l2`, `pearson`, and `ks`, `ks_pvalue`, `kl` by the histogram."""
        n = self._samples
        if self._moments.count == 0:
            return {}
        moments = moment_readings(self._moments, n)
        if self._histogram is None:
            unknown = read(None, n, "undefined: the reference's range was not given")
            return {**moments, "ks": unknown, "ks_pvalue": unknown, "kl": unknown}
        kl = self._histogram.kl_reading(n, equal=self._moments.error_max == 0)
        return {**moments, **self._histogram.ks_readings(n), "kl": kl}


class ClassAgreement:
    """Running metrics of logits or probabilities over the last axis; a sample counts once per position before it.

    One class alone (`[n]` or a last axis of 1) is taken as one of two: its logit against 0, its probability p against
    1 - p. Otherwise a softmax over it would be 1 whatever the candidate yields.
    """

    def __init__(self, *, logits: bool) -> None:
        self._logits = logits
        self._samples = self._rows = self._agreeing = 0
        self._kl_sum = 0.0
        self._moments = PairMoments()
        self._confidence = PairHistogram(0.0, 1.0)

    def update(self, reference: Numbers, candidate: Numbers) -> None:
        """Take in one batch of shape `[n]` or `[n, ..., classes]` on either side."""
        self._samples += reference.shape[0]
        classes = reference.shape[-1] if reference.ndim > 1 else 1
        r, c = reference.reshape(-1, classes), candidate.reshape(-1, classes)
        step = max(1, _BLOCK // classes)
        for start in range(0, len(r), step):
            self._update_rows(r[start : start + step], c[start : start + step])

    def _update_rows(self, reference: Numbers, candidate: Numbers) -> None:
        self._moments = merge_moments(self._moments, pair_moments(reference, candidate))
        r, c = self._complete(reference), self._complete(candidate)
        normalise = statistics.log_softmax if self._logits else statistics.log_probabilities
        r_log, c_log = normalise(r), normalise(c)
        self._rows += len(r)
        self._agreeing += int((r.argmax(axis=-1) == c.argmax(axis=-1)).sum())
        self._kl_sum += float(statistics.categorical_kl(r_log, c_log).sum())
        self._confidence.update(np.exp(r_log.max(axis=-1)), np.exp(c_log.max(axis=-1)))

    def _complete(self, values: Numbers) -> Floats:
        wide = values.astype(np.float64)
        if wide.shape[-1] > 1:
            return wide
        return np.concatenate([np.zeros_like(wide) if self._logits else 1.0 - wide, wide], axis=-1)

    def readings(self) -> Readings:
        """The moments' metrics of the raw numbers; `ks` of the top-1 confidence, mean `kl`, `top1_agreement`."""
        n = self._samples
        if self._rows == 0:
            return {}
        return {
            **moment_readings(self._moments, n),
            **self._confidence.ks_readings(n),
            "kl": read(self._kl_sum / self._rows, n),
            "top1_agreement": read(self._agreeing / self._rows, n),
        }


def _flat_blocks(reference: Numbers, candidate: Numbers) -> Iterator[tuple[Floats, Floats]]:
    r, c = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, r.size, _BLOCK):
        yield r[start : start + _BLOCK], c[start : start + _BLOCK]
