from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.checks.accuracy_checks import check_accuracy
from tests.tasks.tiny import tiny_spec

LABELS = np.arange(64) % 4
RIGHT = np.eye(4, dtype=np.float32)[LABELS]


def remarks(outputs: np.ndarray, labels: np.ndarray, kind: str = "logits") -> list[tuple[str, str]]:
    """Of outputs in two shards, the second of which is cut off; those of a shard's labels are whole."""
    declared = tiny_spec(outputs={"classes": {"kind": kind}}).outputs
    shards = [{"classes": outputs[:40]}, {"classes": outputs[40:60]}]
    found = check_accuracy(declared, shards, [labels[:40], labels[40:]])
    return [(remark.level.value, remark.text) for remark in found]


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_how_often_the_reference_is_right_is_told(kind: str) -> None:
    some = np.where(np.arange(64)[:, None] < 45, RIGHT, np.roll(RIGHT, 1, axis=1))
    told = "classes: the reference is right on 45 of 60 samples with labels (75%)"
    assert remarks(some, LABELS, kind) == [("good", told)]


def test_one_that_is_right_less_often_than_by_chance_is_a_warning() -> None:
    ((level, text),) = remarks(np.roll(RIGHT, 1, axis=1), LABELS)
    assert level == "warning"
    assert text.endswith("(0%), less often than by chance: labels may be numbered in another order")


@pytest.mark.parametrize("labels", [LABELS + 1.0, LABELS + 1, RIGHT.astype(np.int64)])
def test_labels_that_are_no_numbers_of_classes_say_nothing(labels: Any) -> None:
    assert remarks(RIGHT, labels) == []


def test_an_output_of_another_kind_has_no_accuracy() -> None:
    assert remarks(RIGHT, LABELS, "tensor") == []
