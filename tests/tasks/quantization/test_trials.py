from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.quantization.loss import Loss, RuleLoss
from tasks.quantization.trials import Trial, describe_trials, hold_back, part_of, rank_trials, with_reason
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.specs import CalibrationMethod

if TYPE_CHECKING:
    from pathlib import Path

MAX, MINMAX, ENTROPY, PERCENTILE = (CalibrationMethod(name) for name in ("max", "minmax", "entropy", "percentile"))


def split(root: Path, shards: list[list[str]]) -> tuple[list[int], list[int]]:
    """Hold back from shards of samples, each given by the value of its slice; return the numbers of both parts."""
    for name in ("samples", "annotations", "rest", "held"):
        (root / name).mkdir()
    start = 0
    for number, values in enumerate(shards):
        save_shard(root / "samples", number, {"x": np.arange(start, start + len(values))})
        save_shard(root / "annotations", number, {"slice.noise": np.array(values), "label": np.zeros(len(values))})
        start += len(values)
    hold_back(root / "samples", root / "annotations", root / "rest", root / "held")
    rest, held = (
        [int(x) for path in shard_paths(root / name) for x in load_arrays(path)["x"]] for name in ("rest", "held")
    )
    return rest, held


@given(shards=st.lists(st.lists(st.sampled_from(["quiet", "street", "bus"]), min_size=1, max_size=9), max_size=6))
def test_every_fourth_sample_is_held_back_and_every_stratum_keeps_its_share(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[str]]
) -> None:
    values = [value for shard in shards for value in shard]
    assume(len(values) >= 8)
    rest, held = split(tmp_path_factory.mktemp("set"), shards)
    assert sorted(rest + held) == list(range(len(values)))
    assert len(held) == len(values) // 4
    found, whole = Counter(values[number] for number in held), Counter(values)
    assert all(abs(found[value] - count / 4) < 1 for value, count in whole.items())


def test_strata_that_come_round_with_every_fourth_sample_are_not_held_back_whole(tmp_path: Path) -> None:
    rest, held = split(tmp_path, [["a", "b", "c", "d"] * 8])
    assert {number % 4 for number in held} == {number % 4 for number in rest} == {0, 1, 2, 3}


def test_without_slices_every_fourth_sample_of_each_shard_is_held_back(tmp_path: Path) -> None:
    _, held = split(tmp_path, [[""] * 5, [""] * 7])
    assert held == [3, 7, 11]


def test_a_set_too_small_to_hold_back_from_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"calibration\.set: has 7 samples, and method auto needs 8"):
        split(tmp_path, [[""] * 7])


def trial(method: CalibrationMethod, loss: float | None, mean: float = 0.0) -> Trial:
    rules = tuple(
        RuleLoss(output="score", metric=metric, limit=1.0, value=share, loss=share)
        for metric, share in (("mae", loss), ("bias", mean))
    )
    return Trial(method, loss=Loss(loss=loss, rules=rules, defects=(), samples=9))


def test_the_smallest_loss_comes_first_then_the_smaller_mean_then_the_earlier() -> None:
    trials = [trial(MAX, 2.0), trial(MINMAX, 0.5, 0.4), Trial(ENTROPY, reason="broke"), trial(PERCENTILE, 0.5, 0.4)]
    assert [each.method for each in rank_trials(trials)] == [MINMAX, PERCENTILE, MAX]
    trials[1] = trial(MINMAX, 0.5, 0.45)
    assert [each.method for each in rank_trials(trials)] == [PERCENTILE, MINMAX, MAX]
    trials[3] = trial(PERCENTILE, None)
    assert [each.method for each in rank_trials(trials)] == [MINMAX, MAX, PERCENTILE]


def test_trials_are_told_as_json_without_infinities() -> None:
    trials = [trial(MAX, 1 / 3), trial(MINMAX, None), Trial(ENTROPY, reason="broke"), trial(PERCENTILE, 0.0)]
    described = describe_trials(with_reason(trials, PERCENTILE, "no room"))
    assert json.loads(described["trials_mean_loss"]) == {"max": 0.1667}
    assert json.loads(described["trials"]) == {
        "max": 0.3333,
        "minmax": "infinite: score mae is undefined",
        "entropy": "broke",
        "percentile": "no room",
    }


def test_progress_of_a_part_is_progress_of_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    report = part_of(lambda done, total: seen.append((done, total)), 1, 4)
    report(0, 3)
    report(3, 3)
    assert seen == [(100, 400), (200, 400)]
