import numpy as np
import pytest
from sklearn import metrics

from tests.validation.cases import measure, pair_of
from validation.boxes import match
from validation.outputs import OutputKind

BOXES = OutputKind.BOXES


def shared(a: np.ndarray, b: np.ndarray) -> float:
    width, height = (min(a[2 + k], b[2 + k]) - max(a[k], b[k]) for k in range(2))
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def plain_match(found: np.ndarray, right: np.ndarray) -> list[float]:
    """Boxes in the order of their scores, each with the best one that is left."""
    left, matched = list(range(len(right))), []
    for row in found[np.argsort(-found[:, 4])]:
        best = max((k for k in left if right[k, 5] == row[5]), key=lambda k: shared(row, right[k]), default=None)
        if best is None or shared(row, right[best]) < 0.5:
            matched.append(0.0)
        else:
            matched.append(shared(row, right[best]))
            left.remove(best)
    return matched


def average_precision(found: np.ndarray, right: np.ndarray) -> float:
    """Mean over classes of the area under the envelope of precision, one threshold after the other."""
    areas = []
    for number in np.unique(right[:, 5]):
        own = found[found[:, 5] == number]
        wanted = right[right[:, 5] == number]
        hits = np.array(plain_match(own, wanted)) > 0
        points = [(hits[:k].sum() / len(wanted), hits[:k].sum() / k) for k in range(1, len(hits) + 1)]
        steps = np.arange(1, len(wanted) + 1) / len(wanted)
        areas.append(np.mean([max((p for r, p in points if r >= step - 1e-9), default=0.0) for step in steps]))
    return float(np.mean(areas))


def test_every_metric_of_boxes_is_that_of_a_plain_loop() -> None:
    r, c, label = pair_of(BOXES, 0, 40)
    found = measure(r, c, BOXES, label=label, threshold=0.3)
    f1, quality, drops, precisions = [], [], [], []
    for a, b, wanted in zip(r, c, label, strict=True):
        right = np.insert(wanted[wanted[:, 4] >= 0], 4, 1.0, axis=1)
        own, other = a[a[:, 4] >= 0.3], b[b[:, 4] >= 0.3]
        matched = plain_match(other, own)
        f1.append(2 * np.count_nonzero(matched) / max(1, len(own) + len(other)) if len(own) + len(other) else 1.0)
        quality.append(2 * sum(matched) / max(1, len(own) + len(other)) if len(own) + len(other) else 1.0)
        of = [2 * np.count_nonzero(plain_match(side, right)) / (len(side) + len(right)) for side in (own, other)]
        drops.append(of[0] - of[1])
        precisions.append(average_precision(a, right) - average_precision(b, right))
    assert found["box_f1"].value == pytest.approx(np.mean(f1))
    assert found["box_quality"].value == pytest.approx(np.mean(quality))
    assert found["box_f1_drop"].value == pytest.approx(np.mean(drops))
    assert found["map_drop"].value == pytest.approx(np.mean(precisions))


def test_precision_without_a_miss_is_that_of_scikit_learn() -> None:
    """Where every right box is found, average precision is that of a ranking."""
    rng = np.random.default_rng(0)
    right = np.array([[4 * k, 0, 4 * k + 2, 2, 0] for k in range(5)], dtype=float)
    wrong = right + np.array([0, 50, 0, 50, 0])
    both = np.insert(np.concatenate([right, wrong]), 4, rng.random(10), axis=1)
    whole = np.insert(right, 4, 1.0, axis=1)
    label = np.repeat(right[None], 20, axis=0)
    padded = np.concatenate([whole, np.zeros((5, 6))])
    found = measure(np.repeat(padded[None], 20, axis=0), np.repeat(both[None], 20, axis=0), BOXES, label=label)
    ranked = np.array([1] * 5 + [0] * 5)[np.argsort(-both[:, 4])]
    precision = np.cumsum(ranked) / np.arange(1, 11)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    assert found["map_drop"].value == pytest.approx(1 - envelope[ranked == 1].mean())
    assert 1 - found["map_drop"].value >= metrics.average_precision_score([1] * 5 + [0] * 5, both[:, 4]) - 1e-9


def test_another_class_at_the_same_place_is_another_object() -> None:
    r, _, _ = pair_of(BOXES, 1, 30)
    other = r.copy()
    other[..., 5] = 1 - other[..., 5]
    assert measure(r, other, BOXES)["box_f1"].value < 0.2
    assert measure(r[..., :5], other[..., :5], BOXES)["box_f1"].value == 1


def test_a_box_is_matched_once() -> None:
    right = np.array([[0.0, 0, 2, 2, 1, 0]])
    twice = np.array([[0.0, 0, 2, 2, 0.9, 0], [0, 0, 2, 2.1, 0.8, 0]])
    assert (match(twice, right) > 0).tolist() == [True, False]


def test_the_order_of_boxes_and_what_fills_the_array_up_count_for_nothing() -> None:
    r, _, _ = pair_of(BOXES, 2, 30)
    other = r[:, ::-1].copy()
    other[other[..., 4] < 0.5] = 0
    assert measure(r, other, BOXES)["box_quality"].value == pytest.approx(1)


def test_samples_without_a_box_agree() -> None:
    empty = np.zeros((30, 5, 6))
    assert measure(empty, empty, BOXES)["box_f1"].value == 1
