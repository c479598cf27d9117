"""Outputs with a score for each of several labels, any number of which may hold: what is decided at a threshold."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import MASKED, Errors, Mask, Readers, Readings, read, smooth
from validation.bootstrap import Bootstrap, Draws
from validation.catalogue import Direction, Metric, entry, undefined
from validation.elements import Numbers, element_sums, positions_of
from validation.groups import Members
from validation.outputs import OutputKind
from validation.sample_numbers import counts, label_readers, share_reading

_KIND = frozenset({OutputKind.MULTILABEL})
_TSOUMAKAS = "Tsoumakas and Katakis 2007, Int. J. Data Warehousing and Mining 3"


def _share(name: str, description: str, source: str) -> Metric:
    return entry(name, _KIND, Direction.HIGHER_IS_BETTER, description, source, worst=0.0, share=True)


METRICS = (
    _share(
        "decision_agreement",
        "share of decisions, one for each label, that are the reference's; 1 less the Hamming loss",
        _TSOUMAKAS,
    ),
    _share("set_agreement", "share of samples whose every decision is the reference's", _TSOUMAKAS),
    _share(
        "f1_agreement",
        "F1 of a sample's set of labels with the reference's, mean over samples; 1 where both are empty",
        f"{_TSOUMAKAS}; van Rijsbergen 1979",
    ),
    entry(
        "f1_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the reference's F1 with the labels of each sample minus the candidate's, mean over samples",
        "as f1_agreement",
        worst=1.0,
        needs_label=True,
        share=True,
    ),
)
_OWN = ("same", "decisions", "exact", "f1", "f1_r", "f1_c", "samples")


class DecisionAgreement:
    """See `Accumulator`; both sides are `[n, ..., labels]`, and so are labels, of 0 and 1.

    What a sample's positions hold together is its set of labels.
    """

    def __init__(self, *, threshold: float, with_label: bool, keeps: bool) -> None:
        self._errors = Errors(_OWN, keeps=keeps)
        self._threshold, self._with_label = threshold, with_label

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
        sums, largest = element_sums(reference, candidate, mask)
        counted = np.broadcast_to(positions_of(mask, reference.shape)[..., None], (n, *_flat(reference).shape[1:]))
        counted = counted.reshape(n, -1)
        r, c = (
            (side.astype(np.float64).reshape(n, -1) >= self._threshold) & counted for side in (reference, candidate)
        )
        wanted = None if label is None else (label.reshape(n, -1).astype(np.float64) > 0) & counted
        there = counted.any(axis=1)
        own = {
            "same": counts((r == c) & counted),
            "decisions": counts(counted),
            "exact": ((r == c).all(axis=1) & there).astype(np.float64),
            "f1": _f1(r, c) * there,
            "f1_r": np.zeros(n) if wanted is None else _f1(r, wanted) * there,
            "f1_c": np.zeros(n) if wanted is None else _f1(c, wanted) * there,
            "samples": there.astype(np.float64),
        }
        self._errors.add({**sums, **own}, largest, members=members)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of decisions."""
        n = self._errors.samples
        if n == 0:
            return {}
        draws = plan.draw(self._errors.units)
        readers = {**self._errors.readers(draws, plan), **self._of_decisions(draws, n)}
        if draws.value(lambda m: m["samples"]) == 0:
            readers = dict.fromkeys(readers, lambda: undefined(n, MASKED))
        return read(readers, metrics)

    def _of_decisions(self, draws: Draws, n: int) -> Readers:
        readers: Readers = {
            "decision_agreement": lambda: share_reading(draws, n, "same", "decisions"),
            "set_agreement": lambda: share_reading(draws, n, "exact", "samples"),
            "f1_agreement": lambda: share_reading(draws, n, "f1", "samples"),
        }
        if not self._with_label:
            return {**readers, **label_readers(("f1_drop",), n)}
        return {
            **readers,
            "f1_drop": lambda: smooth(
                draws,
                n,
                lambda m: (m["f1_r"] - m["f1_c"]) / m["samples"],
                lowest={"f1_r": 0.0, "f1_c": 1.0},
                highest={"f1_r": 1.0, "f1_c": 0.0},
            ),
        }


def _flat(values: Numbers) -> Numbers:
    return values.reshape(len(values), -1, values.shape[-1])


def _f1(found: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F1 of sets, `[n, elements]` each; 1 of two empty ones."""
    sizes = counts(found) + counts(right)
    return np.asarray(np.where(sizes == 0, 1.0, 2 * counts(found & right) / np.where(sizes == 0, 1.0, sizes)))
