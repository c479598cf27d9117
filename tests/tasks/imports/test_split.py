from __future__ import annotations

import numpy as np
import pytest

from tasks.imports.split import split_samples


def count(groups: tuple[dict[str, np.ndarray], ...]) -> int:
    return sum(len(group["x"]) for group in groups)


@pytest.mark.parametrize(
    ("samples", "drawn"), [(63, 0), (64, 32), (320, 64), (340, 40), (332, 32), (400, 80), (5000, 512)]
)
def test_a_fifth_may_be_drawn_and_300_stay_to_validate_on_where_there_are_so_many(samples: int, drawn: int) -> None:
    split = split_samples([{"x": np.arange(samples)}], seed=0)
    assert (count(split.pool), count(split.validation)) == (drawn, samples - drawn)
    assert split.size == drawn


def test_rows_that_are_the_same_stay_together() -> None:
    split = split_samples([{"x": np.arange(200) // 2}, {"x": np.arange(400)[:, None]}], seed=1)
    inside, outside = (
        {row.tobytes() for group in part for row in group["x"]} for part in (split.pool, split.validation)
    )
    assert inside
    assert not {value for value in inside & outside if len(value) == 8 and int.from_bytes(value, "little") < 0}
    assert split.size == len(inside)


def test_a_few_groups_are_no_calibration_set() -> None:
    assert split_samples([{"x": np.arange(400), "group": np.zeros(400, int)}], seed=0).pool == ()
