import numpy as np
import pytest
from sklearn import metrics

from tests.validation.cases import measure
from validation.outputs import OutputKind

MULTILABEL = OutputKind.MULTILABEL


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_every_metric_of_decisions_is_that_of_an_independent_implementation(threshold: float | None) -> None:
    rng = np.random.default_rng(0)
    r = rng.random((90, 6))
    c, label = r + rng.normal(0, 0.2, r.shape), rng.integers(0, 2, r.shape)
    found = measure(r, c, MULTILABEL, label=label, threshold=threshold)
    a, b = (side >= (threshold or 0.5) for side in (r, c))
    assert found["decision_agreement"].value == pytest.approx(1 - metrics.hamming_loss(a, b))
    assert found["set_agreement"].value == pytest.approx(metrics.accuracy_score(a, b))
    assert found["f1_agreement"].value == pytest.approx(metrics.f1_score(a, b, average="samples", zero_division=1))
    right = [metrics.f1_score(label, side, average="samples", zero_division=1) for side in (a, b)]
    assert found["f1_drop"].value == pytest.approx(right[0] - right[1])
    assert found["mae"].value == pytest.approx(np.abs(r - c).mean())


def test_a_lost_label_among_many_that_do_not_hold_shows_in_f1() -> None:
    r = np.zeros((400, 500))
    r[:, 0] = 1
    found = measure(r, np.zeros_like(r), MULTILABEL)
    assert found["decision_agreement"].value == pytest.approx(0.998)
    assert found["f1_agreement"].value == 0


def test_positions_of_padding_decide_nothing() -> None:
    rng = np.random.default_rng(1)
    r, mask = rng.random((40, 3, 4)), np.array([[1, 1, 0]] * 40)
    c = r.copy()
    c[:, 2] = 1 - c[:, 2]
    found = measure(r, c, MULTILABEL, mask=mask)
    assert found["set_agreement"].value == found["decision_agreement"].value == found["f1_agreement"].value == 1
