from functools import cache

import numpy as np
import pytest

from tests.validation.cases import measure, pair_of
from validation.ctc import edits_between
from validation.outputs import OutputKind

CTC = OutputKind.CTC


def plain_edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Levenshtein's distance by its definition."""

    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = between(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(kept, between(i - 1, j) + 1, between(i, j - 1) + 1)

    return between(len(a), len(b))


def plain_text(frames: np.ndarray, blank: int = 0) -> tuple[int, ...]:
    text, last = [], None
    for symbol in frames.argmax(axis=-1).tolist():
        if symbol not in {last, blank}:
            text.append(symbol)
        last = symbol
    return tuple(text)


def test_edits_are_counted_as_by_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 4, rng.integers(0, 9)) for _ in range(2))
        assert edits_between(a, b) == plain_edits(tuple(a.tolist()), tuple(b.tolist()))


@pytest.mark.parametrize("blank", [0, 4])
def test_every_metric_of_texts_is_that_of_a_plain_loop(blank: int) -> None:
    r, c, label = pair_of(CTC, 0, 60)
    label[::3, 2:] = -1
    found = measure(r, c, CTC, label=label, blank=blank)
    texts = [[plain_text(row, blank) for row in side] for side in (r, c)]
    right = [tuple(symbol for symbol in row if symbol not in {-1, blank}) for row in label.tolist()]
    edits = [plain_edits(a, b) for a, b in zip(*texts, strict=True)]
    longer = [max(len(a), len(b), 1) for a, b in zip(*texts, strict=True)]
    rates = [sum(map(plain_edits, side, right)) / sum(map(len, right)) for side in texts]
    assert found["text_agreement"].value == pytest.approx(np.mean([edit == 0 for edit in edits]))
    assert found["edit_distance"].value == pytest.approx(np.mean(np.divide(edits, longer)))
    assert found["error_rate_drop"].value == pytest.approx(rates[1] - rates[0])
    assert found["agreement"].value == pytest.approx((r.argmax(-1) == c.argmax(-1)).mean())


def test_frames_that_only_hold_a_symbol_longer_leave_the_text_as_it_is() -> None:
    frames = np.eye(4)[[[0, 1, 1, 0, 2]] * 30]
    longer = np.eye(4)[[[1, 1, 1, 0, 2]] * 30]
    found = measure(frames, longer, CTC)
    assert (found["text_agreement"].value, found["edit_distance"].value) == (1, 0)
    assert found["agreement"].value == pytest.approx(0.8)


def test_padded_frames_say_nothing() -> None:
    frames = np.eye(4)[[[0, 1, 1, 0, 2]] * 30]
    other = np.eye(4)[[[0, 1, 1, 0, 3]] * 30]
    found = measure(frames, other, CTC, mask=np.array([[1, 1, 1, 1, 0]] * 30), axis=None)
    assert (found["text_agreement"].value, found["agreement"].value) == (1, 1)
