"""Kinds of output whose every sample becomes a few numbers at once, which are all that is kept of it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import numpy as np

from validation.accumulators import MASKED, Mask, Readers, Readings, read, smooth
from validation.bootstrap import Bootstrap, Draws
from validation.catalogue import Reading, undefined
from validation.elements import Numbers
from validation.groups import Members
from validation.units import Columns, Units

NO_LABEL = "needs labels that fit this output, and there are none"


class SampleNumbers(ABC):
    """See `Accumulator`. `names` are the numbers of a sample; `counted` is the one that a mask may leave at 0."""

    def __init__(self, names: Sequence[str], counted: str, *, with_label: bool) -> None:
        self._units = Units(tuple(names))
        self._counted = counted
        self._with_label = with_label

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
        self._units.add(self._numbers(reference, candidate, label, mask), members)

    @abstractmethod
    def _numbers(self, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask) -> Columns:
        """The numbers of each sample by name, `[n]` each."""

    @abstractmethod
    def _readers(self, draws: Draws, n: int) -> Readers:
        """How each metric of the kind is read."""

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of the kind."""
        n = self._units.samples
        if n == 0:
            return {}
        draws = plan.draw(self._units)
        readers = self._readers(draws, n)
        if draws.value(lambda m: m[self._counted]) == 0:
            readers = dict.fromkeys(readers, lambda: undefined(n, MASKED))
        return read(readers, metrics)


def share_reading(draws: Draws, n: int, right: str, of: str) -> Reading:
    """The reading of a share of all that is counted; of the sample that nobody has seen nothing is right."""
    return smooth(draws, n, lambda m: m[right] / m[of], lowest={right: 0.0})


def drop_reading(draws: Draws, n: int, names: tuple[str, str], of: str, *, most: float | None = None) -> Reading:
    """The reading of what the reference has more than the candidate, by its share of what is counted.

    Of the sample that nobody has seen one side has all, `most` of it, and the other nothing.
    """
    ours, theirs = names
    every = draws.value(lambda m: m[of]) if most is None else most
    return smooth(
        draws,
        n,
        lambda m: (m[ours] - m[theirs]) / m[of],
        lowest={ours: 0.0, theirs: every},
        highest={ours: every, theirs: 0.0},
    )


def label_readers(names: Sequence[str], n: int) -> Readers:
    """Of metrics that need labels where there are none."""
    return dict.fromkeys(names, lambda: undefined(n, NO_LABEL))


def counts(rows: Numbers) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How many of each row are true, `[n]`, of `[n, elements]`."""
    return np.asarray(rows.sum(axis=1), dtype=np.float64)
