from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.checks.output_checks import check_outputs
from tasks.checks.remarks import Level
from tasks.specs import OutputDeclaration

RANDOM = np.random.default_rng(0)
UNIFORM = RANDOM.random((64, 5)).astype(np.float32)
PROBABILITIES = UNIFORM / UNIFORM.sum(axis=1, keepdims=True)
NORMAL = RANDOM.standard_normal((64, 5)).astype(np.float32)
WITH_NAN = np.where(np.arange(64)[:, None] == 3, np.nan, NORMAL).astype(np.float32)


def remarks_on(declared: dict[str, Any], *shards: np.ndarray[Any, Any]) -> list[tuple[Level, str]]:
    declaration = {"y": OutputDeclaration.model_validate(declared)}
    return [(remark.level, remark.text) for remark in check_outputs(declaration, [{"y": shard} for shard in shards])]


@pytest.mark.parametrize(
    ("declared", "shards"),
    [
        ({"kind": "score", "range": [0, 1]}, [UNIFORM]),
        ({"kind": "score", "range": [0, 9]}, [np.rint(9 * UNIFORM)]),  # counts, and a range says so
        ({"kind": "score"}, [NORMAL[:, 0]]),
        ({"kind": "probabilities"}, [PROBABILITIES]),
        ({"kind": "probabilities"}, [UNIFORM[:, 0]]),  # of one of two classes
        ({"kind": "probabilities", "axis": 1}, [np.moveaxis(PROBABILITIES.reshape(8, 8, 5), -1, 1)]),
        ({"kind": "logits"}, [NORMAL]),
        ({"kind": "logits"}, [UNIFORM]),  # all positive, as logits may be
        ({"kind": "embedding"}, [NORMAL[:30], NORMAL[30:]]),
        ({"kind": "tensor"}, [NORMAL.reshape(8, 8, 5), NORMAL[:60].reshape(10, 6, 5)]),
        ({"kind": "tensor"}, [NORMAL[:1]]),  # one sample shows nothing of how others are
    ],
)
def test_outputs_that_are_what_they_are_called_are_good(
    declared: dict[str, Any], shards: list[np.ndarray[Any, Any]]
) -> None:
    assert [level for level, _ in remarks_on(declared, *shards)] == [Level.GOOD]


@pytest.mark.parametrize(
    ("declared", "shard", "words"),
    [
        ({"kind": "score", "range": [0, 1]}, NORMAL, "range [0.0, 1.0], and it gives -"),
        ({"kind": "score"}, RANDOM.integers(0, 200, 64).astype(np.float32), "whole numbers, called a score"),
        ({"kind": "score"}, RANDOM.standard_normal((9, 64, 64)), "4,096 columns"),
        ({"kind": "probabilities"}, NORMAL, "are no probabilities; declare kind logits"),
        ({"kind": "probabilities"}, UNIFORM, "over the classes, and not to 1"),
        ({"kind": "logits"}, PROBABILITIES, "these are probabilities"),
        ({"kind": "embedding"}, np.ones((64, 5), np.float32), "the same for every sample"),
    ],
)
def test_outputs_that_are_not_what_they_are_called_are_warned_of(
    declared: dict[str, Any], shard: np.ndarray[Any, Any], words: str
) -> None:
    ((level, text),) = remarks_on(declared, shard)
    assert level is Level.WARNING
    assert text.startswith("outputs.y: ")
    assert words in text


def test_nan_in_an_output_stops_a_conversion_and_is_all_that_is_said_of_it() -> None:
    (found,) = remarks_on({"kind": "probabilities"}, NORMAL, WITH_NAN)
    assert found == (
        Level.STOP, "outputs.y: NaN or Inf on 1 of 128 samples; correct the module or its weights"
    )  # fmt: skip
