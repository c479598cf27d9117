"""A score with so many columns that they are one population: the pixels of a mask, say, none of which is a trait.

Up to `MOST_COLUMNS` columns each is judged on its own. Beyond, what is measured is of all elements together. A sample
stays one independent sample however many elements it has. Of ranks and distributions one element of each sample counts,
drawn by a hash of the sample's number: elements that hang together would be taken for more than they are.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Mask, Readings
from validation.bootstrap import Bootstrap
from validation.elements import Numbers, element_sums, row_sums
from validation.groups import Members
from validation.reservoir import sample_hashes
from validation.scores import ScoreColumn, moments
from validation.units import Columns

MOST_COLUMNS = 64
"""Columns of a score that are judged each on its own. No rubric has as many; 64 take some 5 s."""
_OF_ONE_ELEMENT = frozenset({"spearman", "ks", "ks_pvalue", "wasserstein", "kl", "qwk_drop"})


class ScorePopulation(ScoreColumn):
    """See `Accumulator`; both sides are `[n, elements]`, and `ends` are those of the declared range."""

    _KEPT = ("largest", "r", "c")

    _seen = 0
    _width = 1

    def update(
        self,
        reference: Numbers,
        candidate: Numbers,
        *,
        label: Numbers | None,
        mask: Mask = None,
        members: Members | None = None,
    ) -> None:
        """Take in one batch."""
        n = len(reference)
        if n == 0:
            return
        sums, largest = element_sums(reference, candidate, mask)
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
        self._low = np.minimum(self._low, [r.min(), c.min()])
        self._high = np.maximum(self._high, [r.max(), c.max()])
        if self._pivot is None:
            self._pivot = float(r[0, 0])
        self._width = r.shape[1]
        of_elements = moments(r, c, self._pivot, label)
        own = {name: row_sums(values) for name, values in of_elements.items()}
        drawn = (sample_hashes(self._seen, n) % np.uint64(self._width)).astype(np.int64)
        self._seen += n
        sides = {"r": reference, "c": candidate} | ({"label": label} if label is not None else {})
        one_each = {name: side[np.arange(n), drawn] for name, side in sides.items()}
        self._errors.add({**sums, **own}, largest, one_each, members)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of a score, each with a note that says of what."""
        found = super().readings(plan, metrics)
        return {name: replace(reading, note=self._note(name, reading.note)) for name, reading in found.items()}

    def _note(self, metric: str, other: str) -> str:
        own = f"{self._width:,} columns as one population"
        if metric in _OF_ONE_ELEMENT:
            own += ", one element of each sample"
        return "; ".join(filter(None, (own, other)))

    def _mean(self, m: Columns) -> Columns:
        return {name: values if name == "elements" else values / m["elements"] for name, values in m.items()}

    def _largest(self, r: NDArray[np.floating], c: NDArray[np.floating]) -> Callable[[], Numbers] | None:
        del r, c  # of one element each
        return None

    def _possible(self) -> Columns:
        return {name: self._width * values for name, values in super()._possible().items()}
