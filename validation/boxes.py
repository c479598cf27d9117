"""Outputs of found objects: boxes with a score and a class, matched by how much of their area they share.

A box is a row: left, top, right and bottom in one unit, its score and, where there are six columns, its class. Rows
whose score is below the threshold, such as those that only fill the array up, are none.
"""

import numpy as np

from validation.accumulators import Mask, Readers
from validation.bootstrap import Draws
from validation.catalogue import Direction, Metric, entry
from validation.elements import Numbers
from validation.outputs import OutputKind
from validation.sample_numbers import SampleNumbers, drop_reading, label_readers, share_reading
from validation.units import Columns, Floats

LEAST_IOU = 0.5
"""Two boxes are one object from this intersection over union on (Everingham et al. 2010)."""
COLUMNS = (5, 6)
_CORNERS, SCORE, _CLASS = slice(0, 4), 4, 5
_LABEL_CLASS = 4
_KIND = frozenset({OutputKind.BOXES})
_VOC = "Everingham et al. 2010, IJCV 88"
_KIRILLOV = "panoptic quality of Kirillov et al. 2019, CVPR"


def _share(name: str, description: str, source: str) -> Metric:
    return entry(name, _KIND, Direction.HIGHER_IS_BETTER, description, source, worst=0.0, share=True)


METRICS = (
    _share(
        "box_f1",
        "F1 of a sample's boxes with the reference's, matched in the order of their scores to one of the same class at"
        " an intersection over union of 0.5 or more; mean over samples, 1 where neither side has a box",
        _VOC,
    ),
    _share(
        "box_quality",
        "box_f1 with each match counted by its intersection over union, mean over samples",
        _KIRILLOV,
    ),
    entry(
        "box_f1_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the reference's box_f1 with the labels minus the candidate's, mean over samples",
        _VOC,
        worst=1.0,
        needs_label=True,
        share=True,
    ),
    entry(
        "map_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the reference's average precision with the labels of each sample minus the candidate's, at an intersection"
        " over union of 0.5: mean over the classes that a sample's labels have, and then over samples",
        f"{_VOC}, all points of the curve; by sample",
        worst=1.0,
        needs_label=True,
        share=True,
    ),
)
_NAMES = ("f1", "quality", "f1_r", "f1_c", "ap_r", "ap_c", "labelled", "samples")


class BoxAgreement(SampleNumbers):
    """See `Accumulator`; both sides are `[n, boxes, 5 or 6]`.

    A label holds the right boxes, `[n, boxes, 5]`: left, top, right, bottom and class; a negative class fills it up.
    """

    def __init__(self, *, threshold: float, with_label: bool) -> None:
        super().__init__(_NAMES, "samples", with_label=with_label)
        self._threshold = threshold

    def _numbers(self, reference: Numbers, candidate: Numbers, label: Numbers | None, mask: Mask) -> Columns:
        del mask  # the kind takes none
        n = len(reference)
        rows = [self._sample(*(side[row].astype(np.float64) for side in (reference, candidate))) for row in range(n)]
        found = {name: np.array([row[name] for row in rows]) for name in ("f1", "quality")}
        found |= dict.fromkeys(("f1_r", "f1_c", "ap_r", "ap_c", "labelled"), np.zeros(n))
        if label is not None:
            for side, values in (("r", reference), ("c", candidate)):
                against = [self._against(values[row].astype(np.float64), label[row]) for row in range(n)]
                found[f"f1_{side}"], found[f"ap_{side}"], found["labelled"] = np.array(against).T
        return found | {"samples": np.ones(n)}

    def _sample(self, reference: Floats, candidate: Floats) -> dict[str, float]:
        r, c = (side[side[:, SCORE] >= self._threshold] for side in (reference, candidate))
        matched = match(c, r)
        boxes = len(r) + len(c)
        if boxes == 0:
            return {"f1": 1.0, "quality": 1.0}
        return {"f1": 2 * float((matched > 0).sum()) / boxes, "quality": 2 * float(matched.sum()) / boxes}

    def _against(self, boxes: Floats, label: Numbers) -> tuple[float, float, float]:
        """F1 and average precision of boxes with the right ones, and 1 where there is one."""
        wide = label.astype(np.float64)
        right = np.insert(wide[wide[:, _LABEL_CLASS] >= 0], SCORE, np.inf, axis=1)
        boxes = boxes if boxes.shape[1] > _CLASS else np.insert(boxes, _CLASS, 0.0, axis=1)
        f1 = self._sample(right, boxes)["f1"]
        if not len(right):
            return f1, 0.0, 0.0
        classes = np.unique(right[:, _CLASS])
        return f1, float(np.mean([_average_precision(boxes, right, number) for number in classes])), 1.0

    def _readers(self, draws: Draws, n: int) -> Readers:
        readers: Readers = {
            "box_f1": lambda: share_reading(draws, n, "f1", "samples"),
            "box_quality": lambda: share_reading(draws, n, "quality", "samples"),
        }
        if not self._with_label:
            return {**readers, **label_readers(("box_f1_drop", "map_drop"), n)}
        return {
            **readers,
            "box_f1_drop": lambda: drop_reading(draws, n, ("f1_r", "f1_c"), "samples"),
            "map_drop": lambda: drop_reading(draws, n, ("ap_r", "ap_c"), "labelled"),
        }


def match(found: Floats, right: Floats) -> Floats:
    """Intersection over union of each found box, highest score first, with the right one that it is; 0 with none.

    Both are `[boxes, 5 or 6]`, of `right` the score counts for nothing; `[found]` in the order of the scores.
    """
    found = found[np.argsort(-found[:, SCORE], kind="stable")]
    shared = overlaps(found[:, _CORNERS], right[:, _CORNERS])
    if found.shape[1] > _CLASS and right.shape[1] > _CLASS:
        shared = np.where(found[:, None, _CLASS] == right[None, :, _CLASS], shared, 0.0)
    matched = np.zeros(len(found))
    for row in range(len(found) if len(right) else 0):
        best = int(shared[row].argmax())
        if shared[row, best] >= LEAST_IOU:
            matched[row] = shared[row, best]
            shared[:, best] = 0.0
    return matched


def overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes `[a, 4]` and `[b, 4]`, `[a, b]`; 0 of those without an area.

    >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(np.maximum(side[:, 2:] - side[:, :2], 0.0), axis=-1) for side in (a, b)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.asarray(np.where(either > 0, both / np.where(either > 0, either, 1.0), 0.0))


def _average_precision(boxes: Floats, right: Floats, number: float) -> float:
    """Area under the curve of precision over recall of one class, precision never rising with recall."""
    own, wanted = (side[side[:, _CLASS] == number] for side in (boxes, right))
    hits = match(own, wanted) > 0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hits].sum() / len(wanted))
