from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.backends.fitting import FitError, choose_profile, cut_output, extents_of, pad_inputs
from tasks.backends.profiles import profiles_of
from tasks.declared import Dim, InputSpec

BATCH = Dim(min=1, opt=8, max=16)
SEQUENCE = Dim(min=1, opt=128, max=512, buckets=(128, 512))


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
        with pytest.raises(FitError, match=r"the engine has no profile for .*keep inputs within the dims"):
            choose_profile(profiles_of(dims), extents)


def test_a_batch_below_the_min_of_a_range_is_refused() -> None:
    with pytest.raises(FitError, match=r"no profile for {'batch': 1}"):
        choose_profile(profiles_of({"batch": Dim(min=2, opt=4, max=8)}), {"batch": 1})


def test_inputs_that_fit_are_not_copied() -> None:
    inputs = {"x": InputSpec(dtype="float32", shape=("batch", "sequence"))}
    feeds = {"x": np.zeros((3, 128), np.float32)}
    profile = profiles_of({"batch": BATCH, "sequence": SEQUENCE})[0]
    assert pad_inputs(feeds, inputs, profile)["x"] is feeds["x"]
