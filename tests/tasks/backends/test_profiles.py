from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.backends.profiles import (
    MOST_PLANS,
    check_outputs_can_be_cut,
    choose_profile,
    cut_output,
    extents_of,
    pad_inputs,
    profiles_of,
)
from tasks.declared import Dim, InputSpec
from tasks.errors import InputError, StageError

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


@st.composite
def any_dim(draw: st.DrawFn) -> Dim:
    extents = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=4)))
    low = draw(st.integers(1, extents[0]))
    if draw(st.booleans()):
        return Dim(min=low, opt=draw(st.sampled_from(extents)), max=extents[-1], buckets=tuple(extents))
    return Dim(min=low, opt=draw(st.integers(low, extents[-1])), max=extents[-1])


all_dims = st.fixed_dictionaries({"batch": any_dim()}, optional={"rows": any_dim(), "columns": any_dim()})


@settings(derandomize=True, deadline=None)
@given(all_dims, st.data())
def test_any_batch_within_the_dims_gets_the_smallest_plan_that_holds_it(dims: dict[str, Dim], data: Any) -> None:
    extents = {name: data.draw(st.integers(dim.min, dim.max)) for name, dim in dims.items()}
    profiles = profiles_of(dims)
    chosen = choose_profile(profiles, extents)
    for name, dim in dims.items():
        if dim.buckets:
            assert chosen.dims[name].max == min(bucket for bucket in dim.buckets if bucket >= extents[name])
        else:
            assert chosen.dims[name] == dim
    holding = [
        profile for profile in profiles if all(profile.dims[name].max >= extent for name, extent in extents.items())
    ]
    size = prod(dim.max for dim in chosen.dims.values())
    assert size == min(prod(dim.max for dim in profile.dims.values()) for profile in holding)


@settings(derandomize=True, deadline=None)
@given(all_dims, st.data(), st.sampled_from([0, -7, 3]))
def test_what_is_padded_and_cut_again_is_as_it_was(dims: dict[str, Dim], data: Any, pad: int) -> None:
    extents = {name: data.draw(st.integers(dim.min, dim.max)) for name, dim in dims.items()}
    axes = (*dims, 2)
    inputs = {"tokens": InputSpec(dtype="int32", shape=axes, pad=pad), "lone": InputSpec(dtype="int32", shape=axes[:1])}
    feeds = {
        "tokens": np.full((*extents.values(), 2), 99, np.int32),
        "lone": np.full(next(iter(extents.values())), 99, np.int32),
    }
    assert extents_of(feeds, inputs) == extents
    profile = choose_profile(profiles_of(dims), extents)
    padded = pad_inputs(feeds, inputs, profile)
    for name, dim in dims.items():
        expected = profile.dims[name].max if dim.buckets or dim.min == dim.max else extents[name]
        assert padded["tokens"].shape[axes.index(name)] == expected
    for name, spec in inputs.items():
        cut = cut_output(padded[name], spec.shape, extents)
        np.testing.assert_array_equal(cut, feeds[name])
        assert np.count_nonzero(padded[name] != 99) == padded[name].size - feeds[name].size
        assert set(padded[name][padded[name] != 99].tolist()) <= {spec.pad}


@settings(derandomize=True, deadline=None)
@given(all_dims)
def test_a_batch_of_an_extent_above_any_max_is_refused(dims: dict[str, Dim]) -> None:
    optimal = {name: dim.opt for name, dim in dims.items()}
    for name, dim in dims.items():
        extents = optimal | {name: dim.max + 1}
        with pytest.raises(StageError, match=r"the engine has no profile for .*keep inputs within the dims"):
            choose_profile(profiles_of(dims), extents)


def test_a_batch_below_the_min_of_a_range_is_refused() -> None:
    with pytest.raises(StageError, match=r"no profile for {'batch': 1}"):
        choose_profile(profiles_of({"batch": Dim(min=2, opt=4, max=8)}), {"batch": 1})


def test_inputs_that_fit_are_not_copied() -> None:
    inputs = {"x": InputSpec(dtype="float32", shape=("batch", "sequence"))}
    feeds = {"x": np.zeros((3, 128), np.float32)}
    profile = profiles_of({"batch": BATCH, "sequence": SEQUENCE})[0]
    assert pad_inputs(feeds, inputs, profile)["x"] is feeds["x"]


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
