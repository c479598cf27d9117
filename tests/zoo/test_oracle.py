"""The second opinion objects to verdicts that cannot be right, and to no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.zoo.oracle import MEASURES, judge
from validation.outputs import OutputKind

SHAPES: dict[str, tuple[int, ...]] = {
    "score": (400,),
    "logits": (400, 6),
    "probabilities": (400, 6),
    "language": (400, 5, 12),
    "embedding": (400, 16),
    "tensor": (400, 9),
    "labels": (400,),
    "segmentation": (400, 8, 8, 3),
    "ctc": (400, 12, 5),
    "boxes": (400, 3, 6),
}


def outputs_of(kind: str, seed: int = 0) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    if kind == "labels":
        return generator.integers(0, 6, SHAPES[kind])
    values = generator.random(SHAPES[kind])
    if kind == "boxes":
        return np.concatenate(
            [values[..., :2], values[..., :2] + values[..., 2:4], values[..., 4:5], values[..., 5:].round()], -1
        )
    return (
        values / values.sum(-1, keepdims=True)
        if kind == "probabilities"
        else 6 * values / (6 if values.ndim == 1 else 1)
    )


def objection(kind: str, candidate: np.ndarray[Any, Any], outcome: str, **declared: Any) -> str:
    outputs = {"found": {"kind": kind, "range": [0, 1], **declared}}
    sides = ([{"found": outputs_of(kind)}], [{"found": candidate}])
    return judge(outputs, "int8", sides, [{"mask": np.ones((400, 5))}]).objection(outcome)


@pytest.mark.parametrize("kind", MEASURES)
def test_equal_outputs_cannot_fail(kind: str) -> None:
    assert objection(kind, outputs_of(kind), "fail")
    assert not objection(kind, outputs_of(kind), "pass")


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("outcome", ["pass", "inconclusive"])
def test_outputs_of_other_samples_cannot_but_fail(kind: str, outcome: str) -> None:
    assert objection(kind, outputs_of(kind)[::-1], outcome)
    assert not objection(kind, outputs_of(kind)[::-1], "fail")


def test_masked_positions_do_not_count() -> None:
    candidate = outputs_of("language")
    candidate[:, 3:] = candidate[::-1, 3:]
    mask = np.ones((400, 5))
    mask[:, 3:] = 0
    sides = ([{"found": outputs_of("language")}], [{"found": candidate}])
    declared = {"found": {"kind": "language", "mask": "mask"}}
    assert judge(declared, "int8", sides, [{"mask": mask}]).is_within
    assert not judge(declared, "int8", sides, [{"mask": np.ones((400, 5))}]).is_within


def test_outputs_that_are_no_numbers_cannot_but_fail() -> None:
    assert objection("tensor", outputs_of("tensor") * np.nan, "pass")


def test_near_a_limit_it_says_nothing() -> None:
    candidate = outputs_of("labels")
    candidate[:8] += 1
    assert not any(objection("labels", candidate, outcome) for outcome in ("pass", "fail", "inconclusive"))


def test_every_kind_has_a_measure_or_is_known_to_have_none() -> None:
    assert {kind.value for kind in OutputKind} - set(MEASURES) == {"multilabel"}
