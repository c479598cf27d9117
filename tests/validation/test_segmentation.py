import numpy as np
import pytest
from sklearn import metrics

from tests.validation.cases import measure, pair_of
from validation.outputs import OutputKind

SEGMENTATION = OutputKind.SEGMENTATION


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-learn's Jaccard index of each map, over the classes that either has, and the mean of it."""
    found = [
        metrics.jaccard_score(x.ravel(), y.ravel(), average="macro", labels=np.unique([x, y]), zero_division=0)
        for x, y in zip(a, b, strict=True)
    ]
    return float(np.mean(found))


def test_every_metric_of_maps_is_that_of_an_independent_implementation() -> None:
    r, c, label = pair_of(SEGMENTATION, 0, 60)
    found = measure(r, c, SEGMENTATION, label=label)
    a, b = r.argmax(axis=-1), c.argmax(axis=-1)
    recall = metrics.recall_score(a.ravel(), b.ravel(), average=None)
    assert found["agreement"].value == pytest.approx((a == b).mean())
    assert found["iou_agreement"].value == pytest.approx(iou(a, b))
    assert found["class_agreement"].value == pytest.approx(recall.min())
    assert found["class_agreement"].note == f"class {recall.argmin()}, the worst of 5"
    assert found["iou_drop"].value == pytest.approx(iou(a, label) - iou(b, label))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_maps_of_numbers_are_measured_as_the_logits_that_they_come_of(dtype: type) -> None:
    r, c, label = pair_of(SEGMENTATION, 0, 40)
    maps = [side.argmax(axis=-1).astype(dtype) for side in (r, c)]
    of_maps = measure(*maps, SEGMENTATION, label=label, axis=None)
    of_logits = measure(r, c, SEGMENTATION, label=label)
    assert {name: m.value for name, m in of_maps.items()} == {name: m.value for name, m in of_logits.items()}


def test_a_small_class_that_is_lost_shows_where_nearly_all_positions_agree() -> None:
    r = np.zeros((300, 20, 20), np.int64)
    r[:, 0, 0] = 1
    found = measure(r, np.zeros_like(r), SEGMENTATION, axis=None)
    assert found["agreement"].value == pytest.approx(399 / 400)
    assert found["class_agreement"].value == 0
    assert found["iou_agreement"].value == pytest.approx((399 / 400) / 2)


def test_one_class_alone_is_there_from_the_threshold_on() -> None:
    r = np.random.default_rng(0).random((30, 4, 4, 1))
    c = np.where(r >= 0.5, r - 0.3, r)
    found = measure(r, c, SEGMENTATION)["class_agreement"]
    assert found.value == pytest.approx((c >= 0.5).sum() / (r >= 0.5).sum())
    assert measure(r, c, SEGMENTATION, threshold=0.05)["agreement"].value == pytest.approx(
        ((r < 0.05) == (c < 0.05)).mean()
    )


def test_where_a_label_knows_nothing_nothing_is_counted() -> None:
    r = np.zeros((20, 4), np.int64)
    c, label = r.copy(), r.copy()
    c[:, 3], label[:, 3] = 1, 255
    assert measure(r, c, SEGMENTATION, label=label, axis=None)["iou_drop"].value == 0
    label[:, 3] = -1
    assert measure(r, c, SEGMENTATION, label=label, axis=None)["iou_drop"].value == 0
    label[:, 3] = 0
    assert measure(r, c, SEGMENTATION, label=label, axis=None)["iou_drop"].value > 0.5


def test_padding_is_no_part_of_a_map() -> None:
    r = np.zeros((20, 4), np.int64)
    c = r.copy()
    c[:, 3] = 1
    found = measure(r, c, SEGMENTATION, axis=None, mask=np.array([[1, 1, 1, 0]] * 20))
    assert {found[name].value for name in ("agreement", "iou_agreement", "class_agreement")} == {1}
