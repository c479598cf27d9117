"""Outputs of logits or probabilities: how alike the predicted distributions are, and what labels add."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from validation import statistics
from validation.accumulators import MASKED, Errors, Mask, Readers, Readings, quantile_reading, read, smooth
from validation.bootstrap import Bootstrap, Draws
from validation.catalogue import Reading, undefined
from validation.elements import Numbers, element_sums, positions_of, row_sums
from validation.groups import Members
from validation.scores import ks_readers
from validation.units import Columns, Floats

ECE_BINS = 15
TOP = 5
CONFIDENCE_RESOLUTION = 0.01
"""A confidence that moved by no more has not moved for `ks`. Those of a classifier pile up in clusters narrower than
rounding, where D tells the order within a cluster, and no threshold that a team sets."""
_BLOCK = 1 << 18
_SHARES = ("kl", "js", "top1", "top5", "confidence_r", "confidence_c", "right_r", "right_c")
_BINS = tuple(f"bin{number}{side}" for number in range(ECE_BINS) for side in "rc")
_NO_LABEL = "needs labels that fit this output, and there are none"


class ClassAgreement:
    """See `Accumulator`; both sides are `[n]` or `[n, ..., classes]`, a label is the right class of each position.

    A sample with several positions counts as one unit: its positions are no samples of their own. One class alone
    (`[n]` or a last axis of 1) is taken as one of two: its logit against 0, its probability p against 1 - p. Otherwise
    a softmax over it would be 1 whatever the candidate yields.
    """

    def __init__(self, *, logits: bool, with_label: bool, keeps: bool, further: tuple[str, ...] = ()) -> None:
        self._logits, self._with_label = logits, with_label
        self._own = ("positions", *_SHARES, *(_BINS if with_label else ()), *further)
        self._errors = Errors(self._own, ("largest", "kl", "confidence_r", "confidence_c"), keeps=keeps)
        self._classes = 0

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
        sums, largest = element_sums(reference, candidate, mask)
        n = len(reference)
        classes = reference.shape[-1] if reference.ndim > 1 else 1
        self._classes = max(classes, 2)
        r, c = (side.reshape(n, -1, classes) for side in (reference, candidate))
        wanted = None if label is None else label.reshape(n, -1)
        counted = positions_of(mask, reference.shape)
        own = {name: np.zeros(n) for name in self._own}
        per_row = r.shape[1] * classes
        rows, width = max(1, _BLOCK // per_row), max(1, _BLOCK // classes)
        for row in range(0, n, rows):
            for column in range(0, r.shape[1], width):
                at = np.s_[row : row + rows, column : column + width]
                right = None if wanted is None else wanted[at]
                ours, theirs = (np.where(counted[at][..., None], side[at], 0) for side in (r, c))
                for name, values in self._shares(ours, theirs, right).items():
                    own[name][row : row + rows] += row_sums(np.where(counted[at], values, 0.0))
                own["positions"][row : row + rows] += counted[at].sum(axis=1)
        share = np.maximum(own["positions"], 1.0)
        kept: dict[str, Numbers] = {name: own[name] / share for name in ("kl", "confidence_r", "confidence_c")}
        self._errors.add({**sums, **own}, largest, kept, members)

    def _shares(self, reference: Numbers, candidate: Numbers, label: Numbers | None) -> Columns:
        """Numbers of every position, `[rows, positions]` each."""
        r, c = self._complete(reference), self._complete(candidate)
        normalise = statistics.log_softmax if self._logits else statistics.log_probabilities
        r_log, c_log = normalise(r), normalise(c)
        first_r, first_c = r.argmax(axis=-1), c.argmax(axis=-1)
        found = {
            "kl": statistics.categorical_kl(r_log, c_log),
            "js": statistics.jensen_shannon(r_log, c_log),
            "top1": first_r == first_c,
            "top5": _rank_of(c, first_r) < TOP,
            "confidence_r": np.exp(r_log.max(axis=-1)),
            "confidence_c": np.exp(c_log.max(axis=-1)),
            "right_r": np.zeros(first_r.shape) if label is None else first_r == label,
            "right_c": np.zeros(first_r.shape) if label is None else first_c == label,
        }
        every = found | self._further(r_log, c_log, label)
        return every if label is None else every | _calibration_bins(found)

    def _further(self, r_log: statistics.Floats, c_log: statistics.Floats, label: Numbers | None) -> dict[str, Floats]:
        """Numbers of every position that a kind has beyond, of the logarithms of both sides' probabilities."""
        del r_log, c_log, label
        return {}

    def _readers_of_kind(self, draws: Draws, n: int) -> Readers:
        """How the metrics are read that a kind has beyond."""
        del draws, n
        return {}

    def _complete(self, values: Numbers) -> Floats:
        wide = values.astype(np.float64, order="C")
        if wide.shape[-1] > 1:
            return wide
        return np.concatenate([np.zeros_like(wide) if self._logits else 1.0 - wide, wide], axis=-1)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of logits and probabilities."""
        n = self._errors.samples
        if n == 0:
            return {}
        draws, kept = plan.draw(self._errors.units), self._errors.kept
        positions = draws.value(lambda m: m["positions"])
        readers: Readers = {
            **self._errors.readers(draws, plan),
            **ks_readers(kept, "confidence_r", "confidence_c", plan, CONFIDENCE_RESOLUTION),
            "kl": lambda: smooth(draws, n, lambda m: m["kl"] / m["positions"]),
            "kl_p99": lambda: quantile_reading(kept, "kl", 0.99, plan),
            "js": lambda: smooth(
                draws, n, lambda m: m["js"] / m["positions"], possible={"js": np.array([np.log(2.0) * positions])}
            ),
            "top1_agreement": lambda: smooth(draws, n, lambda m: m["top1"] / m["positions"], lowest={"top1": 0.0}),
            "top5_agreement": lambda: self._top5_reading(draws, n),
            **self._label_readers(draws, n, positions),
            **self._readers_of_kind(draws, n),
        }
        if positions == 0:
            readers = dict.fromkeys(readers, lambda: undefined(n, MASKED))
        return read(readers, metrics)

    def _top5_reading(self, draws: Draws, n: int) -> Reading:
        if self._classes <= TOP:
            return undefined(n, f"undefined: {self._classes} classes are no more than {TOP}")
        return smooth(draws, n, lambda m: m["top5"] / m["positions"], lowest={"top5": 0.0})

    def _label_readers(self, draws: Draws, n: int, positions: float) -> Readers:
        if not self._with_label:
            return dict.fromkeys(("accuracy_drop", "ece_drop"), lambda: undefined(n, _NO_LABEL))
        return {
            "accuracy_drop": lambda: smooth(
                draws,
                n,
                lambda m: (m["right_r"] - m["right_c"]) / m["positions"],
                lowest={"right_r": 0.0, "right_c": positions},
                highest={"right_r": positions, "right_c": 0.0},
            ),
            "ece_drop": lambda: smooth(draws, n, lambda m: _ece(m, "c") - _ece(m, "r")),
        }


def _rank_of(values: Floats, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the chosen one, by value and then by number."""
    own = np.take_along_axis(values, chosen[..., None], axis=-1)
    before = np.arange(values.shape[-1]) < chosen[..., None]
    return np.asarray(((values > own) | ((values == own) & before)).sum(axis=-1))


def _calibration_bins(found: Columns) -> dict[str, Floats]:
    bins: dict[str, Floats] = {}
    for side in "rc":
        confidence = found[f"confidence_{side}"]
        gap = found[f"right_{side}"] - confidence
        place = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        bins |= {f"bin{number}{side}": np.where(place == number, gap, 0.0) for number in range(ECE_BINS)}
    return bins


def _ece(m: Columns, side: str) -> Floats:
    gaps = np.stack([m[f"bin{number}{side}"] for number in range(ECE_BINS)], axis=-1)
    return np.asarray(np.abs(gaps).sum(axis=-1) / m["positions"])
