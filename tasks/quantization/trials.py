"""Which calibration method suits a model: all are tried on one part of the set and scored on another."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import InputError
from tasks.quantization.interface import rows_in
from tasks.samples.data_spec import slices_in
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.specs import CalibrationMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tasks.quantization.loss import Loss

METHODS = (
    CalibrationMethod.MAX,
    CalibrationMethod.MINMAX,
    CalibrationMethod.ENTROPY,
    CalibrationMethod.PERCENTILE,
)
HELD_BACK = 4
FEWEST_SAMPLES = 2 * HELD_BACK
_STEPS = 100


@dataclass(frozen=True)
class Trial:
    """A method, and its loss on the samples that it was not calibrated on, or why it has none."""

    method: CalibrationMethod
    loss: Loss | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The loss, or the reason."""
        return self.reason or ("" if self.loss is None else self.loss.text)


def rank_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Those that have a loss, the smallest first; of equals the one with the smaller mean, then the earlier."""
    return sorted((trial for trial in trials if trial.loss is not None and not trial.reason), key=_rank)


def _rank(trial: Trial) -> tuple[float, float]:
    assert trial.loss is not None  # noqa: S101 - rank_trials leaves out those without
    return trial.loss.rank


def with_reason(trials: Sequence[Trial], method: CalibrationMethod, reason: str) -> list[Trial]:
    """The trials, of which that of `method` has failed after all."""
    return [replace(trial, reason=reason) if trial.method is method else trial for trial in trials]


def describe_trials(trials: Sequence[Trial]) -> dict[str, str]:
    """What a recipe says of them: two JSON texts, by method, with numbers to four digits.

    `trials` has each method's loss, or a text that says why it has none, and `trials_mean_loss` the mean over rules,
    which decides between equal losses, where it is finite.
    """
    losses: dict[str, float | str] = {}
    for trial in trials:
        loss = None if trial.reason or trial.loss is None else trial.loss.loss
        losses[trial.method.value] = trial.text if loss is None else _rounded(loss)
    ranked = [trial for trial in trials if trial in rank_trials(trials)]
    means = {trial.method.value: _rounded(_rank(trial)[1]) for trial in ranked if math.isfinite(_rank(trial)[1])}
    return {"trials": json.dumps(losses), "trials_mean_loss": json.dumps(means)}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def hold_back(samples: Path, annotations: Path, rest: Path, held: Path) -> None:
    """Write every fourth sample of a set into shards of `held`, the others into shards of `rest`, in their order.

    Samples are counted stratum by stratum, shard by shard, so that every stratum keeps its mix of shards: one that came
    round with every fourth sample of the set would be held back as a whole. A stratum is what shares all slices.

    Raises:
        InputError: the set has fewer than 8 samples.
    """
    paths = shard_paths(samples)
    strata = [key for path in paths for key in _strata(path, annotations / path.name)]
    if len(strata) < FEWEST_SAMPLES:
        raise InputError(
            f"calibration.set: has {len(strata)} samples, and method auto needs {FEWEST_SAMPLES}, since it holds back"
            " every fourth; add samples, or choose another method"
        )
    order = sorted(range(len(strata)), key=strata.__getitem__)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[order[HELD_BACK - 1 :: HELD_BACK]] = True
    start = 0
    for number, path in enumerate(paths):
        shard = load_arrays(path)
        here = chosen[start : start + rows_in(path)]
        start += len(here)
        for folder, rows in ((rest, ~here), (held, here)):
            if rows.any():
                save_shard(folder, number, {name: array[rows] for name, array in shard.items()})


def _strata(shard: Path, annotations: Path) -> list[tuple[str, ...]]:
    columns = slices_in(load_arrays(annotations))
    rows = rows_in(shard)
    labels = [columns[name].astype(np.str_).tolist() for name in sorted(columns)]
    return list(zip(*labels, strict=True)) if labels else [()] * rows


def part_of(progress: Callable[[int, int], None], part: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one of several parts, as progress of the whole."""
    return lambda done, total: progress(part * _STEPS + _STEPS * done // max(total, 1), parts * _STEPS)
