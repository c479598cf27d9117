import numpy as np
import pytest
from sklearn import metrics

from tests.validation.cases import measure, run, whole
from validation.bootstrap import Bootstrap
from validation.outputs import OutputKind

LABELS = OutputKind.LABELS


def test_every_metric_of_labels_is_that_of_an_independent_implementation() -> None:
    rng = np.random.default_rng(0)
    r, c, label = (rng.integers(0, 3, (80, 5)) for _ in range(3))
    found = measure(r, c, LABELS, label=label)
    assert found["agreement"].value == pytest.approx(metrics.accuracy_score(r.ravel(), c.ravel()))
    right = [metrics.accuracy_score(label.ravel(), side.ravel()) for side in (r, c)]
    assert found["accuracy_drop"].value == pytest.approx(right[0] - right[1])
    assert found["max_abs"].value == 2


@pytest.mark.parametrize(("far", "dtype"), [(1, np.int64), (1, np.uint64), (2, np.int64)])
def test_whole_numbers_beyond_what_a_float_holds_are_compared_exactly(far: int, dtype: type) -> None:
    r = np.full((10, 2), 2**62, dtype)
    c = r.copy()
    c[3, 1] += far
    found = measure(r, c, LABELS)
    assert found["agreement"].value == pytest.approx(19 / 20)
    assert found["max_abs"].value == far
    assert measure(r, r, LABELS)["max_abs"].value == 0


def test_another_width_of_the_same_whole_numbers_is_no_difference() -> None:
    r = np.arange(-5, 5, dtype=np.int64)
    assert measure(r, r.astype(np.int32), LABELS)["agreement"].value == 1
    assert measure(r % 2 == 0, (r % 2 == 0).astype(np.uint8), LABELS)["agreement"].value == 1


def test_true_and_false_agree_where_they_are_equal() -> None:
    r = np.arange(40) % 2 == 0
    assert measure(r, r, LABELS)["agreement"].value == 1
    assert measure(r, ~r, LABELS)["agreement"].value == 0


def test_perfect_agreement_is_bounded_by_the_rule_of_three() -> None:
    r = np.arange(300)
    low = measure(r, r, LABELS, plan=Bootstrap(resamples=4_000))["agreement"].low
    assert 1 - low == pytest.approx(3 / 300, rel=0.1)


def test_a_sample_with_many_elements_is_one_sample() -> None:
    r = np.zeros((50, 400), np.int64)
    assert measure(r, r, LABELS)["agreement"].n == 50
    assert measure(r, r, LABELS)["agreement"].low < 0.96


def test_what_a_mask_leaves_out_counts_for_nothing() -> None:
    r, c = np.zeros((9, 4), np.int64), np.zeros((9, 4), np.int64)
    c[:, 3] = 7
    mask = np.array([[1, 1, 1, 0]] * 9)
    found = measure(r, c, LABELS, mask=mask)
    assert (found["agreement"].value, found["max_abs"].value) == (1, 0)
    assert measure(r, c, LABELS, mask=np.zeros((9, 4)))["agreement"].note == "undefined: the mask leaves nothing"


def test_the_worst_samples_and_slices_count_what_differs_and_not_by_how_much() -> None:
    r = np.arange(10, dtype=np.int64)
    c = r.copy()
    c[2] = 900
    result = run(r, c, LABELS, slices={"half": np.arange(10) // 5})
    assert [(each.value, each.mae) for each in result.slices] == [("0", pytest.approx(0.2)), ("1", 0)]
    worst = result.worst[0]
    assert (worst.index, worst.reference, worst.candidate, worst.abs_error) == (2, 2, 900, 1)


def test_floats_beside_whole_numbers_are_a_defect() -> None:
    r = np.arange(8)
    result = run(r, r.astype(np.float32), LABELS)
    assert len(result.defects) == 1
    assert "the candidate holds float32, and kind labels is of whole numbers" in result.defects[0]
    assert whole(result)["agreement"].value is None
