"""What a service does with the engine's rows: leave out weak ones and duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORE, CLASS = 4, 5


def suppress(boxes: NDArray[np.float32], *, threshold: float = 0.5, overlap: float = 0.45) -> NDArray[np.float32]:
    """Non-maximum suppression by class, greedily from the highest score down.

    Args:
        boxes: float32 [rows, 6] of one picture: left, top, right, bottom, score, class.
        threshold: score from which on a row is a box.
        overlap: intersection over union from which on two boxes of one class are one object.

    Returns:
        The rows that are left, float32 [boxes, 6], by falling score.

    >>> rows = np.array([[0, 0, 9, 9, 0.9, 1], [1, 0, 9, 9, 0.8, 1], [0, 0, 9, 9, 0.6, 0], [30, 30, 40, 40, 0.2, 1]])
    >>> suppress(rows)[:, 4].tolist()
    [0.9, 0.6]
    """
    left = boxes[boxes[:, SCORE] >= threshold]
    left = left[np.argsort(-left[:, SCORE], kind="stable")]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[(left[:, CLASS] != best[CLASS]) | (_shared(best, left) < overlap)]
    return np.array(kept, dtype=boxes.dtype).reshape(-1, boxes.shape[1])


def _shared(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of a box with each of others, [others]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:4], others[:, 2:4])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:4] - others[:, :2], axis=1) + np.prod(box[2:4] - box[:2])
    return np.asarray(both / np.maximum(areas - both, 1e-9))
