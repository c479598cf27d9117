from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import pytest

from tasks.backends.profiles import MOST_PLANS, check_outputs_can_be_cut, profiles_of
from tasks.declared import Dim
from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = Dim(min=1, opt=8, max=16)
SEQUENCE = Dim(min=1, opt=128, max=512, buckets=(128, 512))


def bucketed(*buckets: int, low: int = 1) -> Dim:
    return Dim(min=low, opt=buckets[0], max=buckets[-1], buckets=buckets)


def maxima(dims: dict[str, Dim]) -> list[tuple[int, ...]]:
    return [tuple(dim.max for dim in profile.dims.values()) for profile in profiles_of(dims)]


def test_ranges_without_buckets_are_one_plan_and_keep_min_opt_and_max() -> None:
    dims = {"batch": BATCH, "sequence": SEQUENCE.without_buckets()}
    (profile,) = profiles_of(dims)
    assert (profile.file, profile.dims) == ("engine.plan", dims)


def test_there_is_a_plan_for_each_combination_of_buckets_smallest_first() -> None:
    dims = {"batch": bucketed(1, 8, 32), "sequence": bucketed(64, 128, 512)}
    assert maxima(dims) == [(1, 64), (1, 128), (1, 512), (8, 64), (8, 128), (32, 64), (8, 512), (32, 128), (32, 512)]
    assert [profile.file for profile in profiles_of(dims)][3] == "engine-batch8-sequence64.plan"
    for profile in profiles_of(dims):
        assert all(dim.min == dim.opt == dim.max for dim in profile.dims.values())


def test_a_range_beside_buckets_stays_a_range_in_every_plan() -> None:
    profiles = profiles_of({"batch": BATCH, "sequence": SEQUENCE})
    assert [profile.file for profile in profiles] == ["engine-sequence128.plan", "engine-sequence512.plan"]
    assert [profile.dims["batch"] for profile in profiles] == [BATCH, BATCH]


def test_a_model_without_dimensions_is_one_plan() -> None:
    assert [(profile.file, profile.dims) for profile in profiles_of({})] == [("engine.plan", {})]


def test_more_plans_than_anyone_waits_for_are_refused() -> None:
    many = tuple(range(1, MOST_PLANS + 1))
    assert len(profiles_of({"batch": bucketed(*many), "sequence": bucketed(8)})) == MOST_PLANS
    with pytest.raises(InputError, match=r"model.yaml: dims: the buckets make 65 plans of every engine; leave at most"):
        profiles_of({"batch": bucketed(*many, MOST_PLANS + 1)})


@pytest.mark.parametrize("axes", [("batch", "sequence"), ("batch", 7), ("batch",), (7,), ()])
def test_outputs_of_named_and_fixed_axes_can_be_cut(axes: Sequence[str | int]) -> None:
    assert can_be_cut({"score": axes}, {"batch": BATCH, "sequence": SEQUENCE})


def can_be_cut(outputs: dict[str, Sequence[str | int]], dims: dict[str, Dim]) -> bool:
    try:
        check_outputs_can_be_cut(outputs, dims, "batch")
    except InputError:
        return False
    return True


def test_an_output_axis_that_varies_and_has_no_name_of_ours_is_refused_beside_buckets() -> None:
    with pytest.raises(
        InputError, match=r"model.yaml: dims.sequence.buckets: axis 1 of output frames varies with the input but is no"
    ):
        check_outputs_can_be_cut(
            {"score": ("batch",), "frames": ("batch", "sequence//2")}, {"batch": BATCH, "sequence": SEQUENCE}, "batch"
        )


@pytest.mark.parametrize(
    "dims",
    [
        {"batch": BATCH, "sequence": SEQUENCE.without_buckets()},
        {"batch": bucketed(1, 8), "sequence": SEQUENCE.without_buckets()},
    ],
    ids=["no buckets", "buckets of the batch"],
)
def test_such_an_axis_is_no_harm_where_only_the_batch_may_be_padded(dims: dict[str, Dim]) -> None:
    assert can_be_cut({"frames": ("batch", "sequence//2")}, dims)


def test_the_smallest_plan_comes_first_whatever_the_order_of_the_dimensions() -> None:
    sizes = [prod(found) for found in maxima({"columns": bucketed(3, 50), "batch": bucketed(2, 4, 7)})]
    assert all(low <= high for low, high in pairwise(sizes))
