"""Is the number right that an inconclusive rule asks for, where samples are like those of the pilot?"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import mean, median
from typing import TYPE_CHECKING
from unittest import mock

from gate.calibration import CORES, draw, truth
from gate.judging import judge, rule_at
from rows import Row

from validation.metrics import METRICS
from validation.rules import Policy, Rule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from validation.verdict import RuleResult

PILOT, DRAWS, TIMES = 320, 24, (2, 4, 10)
"""Samples of a pilot; draws of each size; a limit so many times as far from the ideal as the engine is."""
_DECIDED = 0.9
_MOST, _STEP = 30_000, 1.15
_CELLS = (
    *(("score in [0, 1]", "t, 3 degrees", metric) for metric in ("mae", "bias", "pearson", "ks", "smd")),
    *(("score in [0, 1]", "2 % at the other end", metric) for metric in ("mae", "bias", "pearson", "smd")),
    *(("score without a range", "t, 3 degrees", metric) for metric in ("p99_sd", "pearson", "ks")),
    *(("tensors", "lognormal 1.5", metric) for metric in ("relative_l2", "relative_l2_p99")),
    *(("classes", "normal noise", metric) for metric in ("top1_agreement", "js", "ks")),
    *(("classes", "2 % turned round", metric) for metric in ("top1_agreement", "js")),
    *(("embeddings", "lognormal 1.5", metric) for metric in ("cosine", "cosine_p1")),
)


@dataclass(frozen=True)
class Asked:
    """What pilots ask for (median), and how many samples decide in 9 of 10 draws; None where none is asked for."""

    what: str
    asked: float | None
    enough: float | None


def asked(_scratch: Path) -> list[Row]:
    """How far the number that a pilot of 320 asks for is from the one that decides in 9 of 10 draws."""
    with (
        mock.patch.dict(os.environ, dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")),
        ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool,
    ):
        found = [cell for cells in pool.map(_of_cell, _CELLS) for cell in cells]
    return [_row(cell) for cell in found if cell.asked is not None and cell.enough is not None]


def _row(cell: Asked) -> Row:
    assert cell.asked is not None
    assert cell.enough is not None
    ratio = cell.asked / cell.enough
    measured = f"{cell.asked:,.0f} asked for, {cell.enough:,.0f} decide: {ratio:.2f}"
    return Row(cell.what, measured, "1 / 1.5 to 1.5", 1 / 1.5 <= ratio <= 1.5)


def _of_cell(cell: tuple[str, str, str]) -> list[Asked]:
    kind, engine, metric = cell
    value, ideal = mean(truth(kind, engine, part)[metric] for part in range(3)), METRICS[metric].ideal
    rules = (rule_at(kind, metric, ideal + times * (value - ideal)) for times in TIMES)
    return [_of_rule(rule, engine, times) for rule, times in zip(rules, TIMES, strict=True) if rule is not None]


def _of_rule(rule: Rule, engine: str, times: int) -> Asked:
    what = f"{rule.output} {rule.metric}, {engine}, at 1/{times} of its limit"
    undecided = [each for each in _judged(rule, engine, PILOT) if each.outcome is Outcome.INCONCLUSIVE]
    numbers = [each.needed for each in undecided if each.needed is not None]
    if len(undecided) < DRAWS / 2 or len(numbers) < len(undecided) / 2 or median(numbers) > _MOST:
        return Asked(what, None, None)
    return Asked(what, median(numbers), _enough(rule, engine, median(numbers)))


def _enough(rule: Rule, engine: str, start: float) -> float | None:
    """The least number that decides in 9 of 10 draws, to 15 %; None beyond the most that is drawn."""
    few, many, n = float(PILOT), None, start
    while n < 2 * _MOST and (many is None or many > few * _STEP):
        found = _judged(rule, engine, round(n))
        if mean(each.outcome is not Outcome.INCONCLUSIVE for each in found) >= _DECIDED:
            many = n
        else:
            few = n
        n = few * 1.5 if many is None else (few * many) ** 0.5
    return many


def _judged(rule: Rule, engine: str, n: int) -> list[RuleResult]:
    readings = draw(rule.output, engine, n, "asked", range(DRAWS), rule.metric)
    return [judge([(rule, each[rule.metric])], Policy(rules=(rule,)))[0] for each in readings]
