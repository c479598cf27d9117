import numpy as np
import pytest
from scipy import special

from tests.validation.cases import measure, pair_of
from validation.outputs import OutputKind

LANGUAGE = OutputKind.LANGUAGE


def test_the_ratio_of_perplexities_is_that_of_text_that_the_reference_writes() -> None:
    r, c, _ = pair_of(LANGUAGE, 0, 60)
    p, log_q = special.softmax(r, axis=-1), special.log_softmax(c, axis=-1)
    surprise = [-(p * side).sum(axis=-1).mean() for side in (special.log_softmax(r, axis=-1), log_q)]
    found = measure(r, c, LANGUAGE)["perplexity_ratio"]
    assert found.value == pytest.approx(np.exp(surprise[1] - surprise[0]))
    assert 1 < found.low < found.value < found.high


def test_labels_say_how_surprised_each_side_is_and_negative_ones_are_none() -> None:
    r, c, label = pair_of(LANGUAGE, 1, 60)
    label[:, 0] = -100
    found = measure(r, c, LANGUAGE, label=label)["nll_drop"]
    p, q = (special.log_softmax(side[:, 1:], axis=-1) for side in (r, c))
    chosen = label[:, 1:, None]
    drop = (np.take_along_axis(p, chosen, -1) - np.take_along_axis(q, chosen, -1)).mean()
    assert found.value == pytest.approx(drop)


def test_agreement_is_by_position_and_padding_is_none() -> None:
    r, c, _ = pair_of(LANGUAGE, 2, 60)
    mask = np.array([[1, 1, 0]] * 60)
    found = measure(r, c, LANGUAGE, mask=mask)
    a, b = (side[:, :2].argmax(axis=-1) for side in (r, c))
    assert found["top1_agreement"].value == pytest.approx((a == b).mean())
    assert found["perplexity_ratio"].value == pytest.approx(
        measure(r[:, :2], c[:, :2], LANGUAGE)["perplexity_ratio"].value
    )
