"""Outputs that give a class to each position of a map: how much of each class's area is the reference's."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import Mask, Readers, smooth
from validation.bootstrap import Draws
from validation.catalogue import Direction, Reading, entry, undefined
from validation.elements import Numbers
from validation.labels import elements_of
from validation.outputs import OutputKind
from validation.sample_numbers import SampleNumbers, drop_reading, label_readers, share_reading
from validation.units import Columns, Floats

MOST_CLASSES = 256
"""Classes beyond are left out of `class_agreement`."""
_KIND = frozenset({OutputKind.SEGMENTATION})
_CSURKA = "Everingham et al. 2015, IJCV 111; by image: Csurka et al. 2013, BMVC"
_UNLABELLED = 255
Map = NDArray[np.int64]

METRICS = (
    entry(
        "iou_agreement",
        _KIND,
        Direction.HIGHER_IS_BETTER,
        "intersection over union of a class's area with the reference's, mean over the classes that either side has in"
        " a sample, and then over samples",
        _CSURKA,
        worst=0.0,
        share=True,
    ),
    entry(
        "class_agreement",
        _KIND,
        Direction.HIGHER_IS_BETTER,
        "share of a class's positions in the reference that the candidate gives the same class, of the worst class",
        "recall by class; worst-group accuracy of Sagawa et al. 2020",
        worst=0.0,
        share=True,
    ),
    entry(
        "iou_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the reference's intersection over union with the labels minus the candidate's, as iou_agreement",
        _CSURKA,
        worst=1.0,
        needs_label=True,
        share=True,
    ),
)


class MapAgreement(SampleNumbers):
    """See `Accumulator`; both sides are `[n, ..., classes]` of floats, or maps `[n, ...]` of the numbers of classes.

    One class alone is there where its value is at the `threshold` or above. A label is the map that is right; where it
    is below 0, no class, or 255 beside maps of numbers, nothing is known. `classes` is None for maps of numbers.
    """

    def __init__(self, *, threshold: float, classes: int | None, with_label: bool) -> None:
        self._threshold, self._classes = threshold, None if classes is None else max(classes, 2)
        self._by_class = min(self._classes or MOST_CLASSES, MOST_CLASSES)
        areas = [f"{part}{number}" for part in ("kept", "area") for number in range(self._by_class)]
        own = ("same", "elements", "iou", "maps", "iou_r", "iou_c", "labelled")
        super().__init__((*own, *areas), "elements", with_label=with_label)

    def _numbers(self, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask) -> Columns:
        r, c = self._map(reference), self._map(candidate)
        n, counted = len(r), elements_of(mask, r.shape)
        r, c = r.reshape(n, -1), c.reshape(n, -1)
        wanted = None if label is None else label.reshape(n, -1).astype(np.int64)
        rows = [self._sample(r[row], c[row], None if wanted is None else wanted[row], counted[row]) for row in range(n)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _sample(self, r: Map, c: Map, label: Map | None, counted: NDArray[np.bool_]) -> dict[str, float]:
        a, b = r[counted], c[counted]
        numbers = {"same": float((a == b).sum()), "elements": float(a.size), "iou": _mean_iou(a, b)}
        numbers |= {"maps": float(a.size > 0), "iou_r": 0.0, "iou_c": 0.0, "labelled": 0.0}
        for name, values in (("kept", a[a == b]), ("area", a)):
            of_class = np.bincount(values[(values >= 0) & (values < self._by_class)], minlength=self._by_class)
            numbers |= {f"{name}{number}": float(count) for number, count in enumerate(of_class.tolist())}
        if label is not None:
            known = (
                counted & (label >= 0) & ((label != _UNLABELLED) if self._classes is None else label < self._classes)
            )
            numbers |= {"iou_r": _mean_iou(r[known], label[known]), "iou_c": _mean_iou(c[known], label[known])}
            numbers["labelled"] = float(known.any())
        return numbers

    def _map(self, values: Numbers) -> Map:
        if self._classes is None:
            return values.astype(np.int64)
        if values.shape[-1] == 1:
            return np.asarray(values[..., 0].astype(np.float64) >= self._threshold, dtype=np.int64)
        return np.asarray(values.argmax(axis=-1))

    def _readers(self, draws: Draws, n: int) -> Readers:
        readers: Readers = {
            "agreement": lambda: share_reading(draws, n, "same", "elements"),
            "iou_agreement": lambda: share_reading(draws, n, "iou", "maps"),
            "class_agreement": lambda: self._class_reading(draws, n),
        }
        if not self._with_label:
            return {**readers, **label_readers(("iou_drop",), n)}
        drop = ("iou_r", "iou_c")
        return {**readers, "iou_drop": lambda: drop_reading(draws, n, drop, "labelled")}

    def _class_reading(self, draws: Draws, n: int) -> Reading:
        shares = [draws.value(partial(_share_of, number=number)) for number in range(self._by_class)]
        there = [number for number, share in enumerate(shares) if np.isfinite(share)]
        if not there:
            return undefined(n, f"undefined: the reference has none of the first {self._by_class} classes")
        worst = min(there, key=lambda number: shares[number])
        found = smooth(draws, n, lambda m: self._worst_class(m, there))
        note = f"class {worst}, the worst of {len(there)}"
        return Reading(value=found.value, n=n, interval=found.interval, note=note)

    @staticmethod
    def _worst_class(m: Columns, there: list[int]) -> Floats:
        kept, area = (np.stack([m[f"{part}{k}"] for k in there], axis=-1) for part in ("kept", "area"))
        return np.asarray(np.nanmin(np.where(area > 0, kept / area, np.inf), axis=-1))


def _share_of(m: Columns, number: int) -> Floats:
    return m[f"kept{number}"] / m[f"area{number}"]


def _mean_iou(a: Map, b: Map) -> float:
    """Mean over the classes of either map `[positions]` of their intersection over union; 0 without positions."""
    if a.size == 0:
        return 0.0
    values, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    x, y = places[: a.size], places[a.size :]
    both = np.bincount(x[x == y], minlength=values.size)
    either = np.bincount(x, minlength=values.size) + np.bincount(y, minlength=values.size) - both
    return float((both / either).mean())
