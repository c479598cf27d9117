from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.imports.output_guesses import guess_outputs

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(8, 5)).astype(np.float32)
SOFT = np.exp(ROWS) / np.exp(ROWS).sum(-1, keepdims=True)


def guess(array: np.ndarray, *, name: str = "out", labels: Any = None, **config: Any) -> dict[str, Any]:
    return dict(guess_outputs([{name: array}], config, {}, labels, "model")[name].value)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (SOFT, {"kind": "probabilities"}),
        (np.stack([SOFT] * 3, axis=1), {"kind": "probabilities", "axis": -1}),
        (np.stack([SOFT] * 3, axis=2), {"kind": "probabilities", "axis": 1}),
        (ROWS / np.linalg.norm(ROWS, axis=-1, keepdims=True), {"kind": "embedding"}),
        (SOFT[:, :1], {"kind": "score", "range": [0, 1]}),
        (SOFT[:, 0], {"kind": "score", "range": [0, 1]}),
        (ROWS[:, 0], {"kind": "score"}),
        (ROWS, {"kind": "tensor"}),
        (ROWS.argmax(-1), {"kind": "labels"}),
        (ROWS > 0, {"kind": "labels"}),
    ],
)
def test_values_say_the_kind(array: np.ndarray, expected: dict[str, Any]) -> None:
    assert guess(array) == expected


def test_labels_of_as_many_columns_are_of_logits() -> None:
    assert guess(ROWS, labels=np.array([0, 4])) == {"kind": "logits"}
    assert guess(ROWS, labels=np.array([0, 5])) == {"kind": "tensor"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, {"kind": "logits"}),
        (
            {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
            {"kind": "multilabel", "threshold": 0},
        ),
        ({"architectures": ["BertForSequenceClassification"], "problem_type": "regression"}, {"kind": "score"}),
        ({"architectures": ["Wav2Vec2ForCTC"], "pad_token_id": 7}, {"kind": "ctc", "axis": -1, "blank": 7}),
        ({"architectures": ["GPT2LMHeadModel"]}, {"kind": "language"}),
        ({"architectures": ["Odd"]}, {"kind": "logits"}),
    ],
)
def test_the_head_of_a_model_says_the_kind(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert guess(ROWS, name="logits", **config) == expected


def test_an_output_of_positions_gets_the_mask_that_has_as_many() -> None:
    seen = [{"out": np.zeros((2, length, 5), np.float32) + length} for length in (8, 16)]
    (found,) = guess_outputs(seen, {}, {"other_mask": [3, 3], "attention_mask": [8, 16]}, None, "model").values()
    assert found.value == {"kind": "tensor", "mask": "attention_mask"}


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="output out holds NaN or Inf"):
        guess(ROWS * np.nan)
