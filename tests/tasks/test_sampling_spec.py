from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from tasks.declared import InputSpec
from tasks.sampling_spec import SamplingSpec
from tasks.serving.sampling import Sampler

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = {"tokens": InputSpec(dtype="int64", shape=("batch", "sequence"), pad=7)}


def test_what_is_declared_is_a_route_that_a_router_takes(tmp_path: Path) -> None:
    spec = SamplingSpec(rate=1, slices=("level",), never=("tokens",))
    route = spec.for_route(INPUTS, str(tmp_path))
    assert (route["folder"], route["redacted"], "never" in route) == (str(tmp_path), {"tokens": 7}, False)
    assert Sampler.of_route(route, "scorer_0_0", 1).close() == 0


@pytest.mark.parametrize("rate", [0, 1.5, -0.1])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValidationError, match="rate"):
        SamplingSpec(rate=rate)


def test_what_is_never_kept_is_not_kept_as_a_slice_either() -> None:
    with pytest.raises(ValidationError, match="never: user is kept as a slice or group by this very section"):
        SamplingSpec(rate=0.1, group="user", never=("user",))


def test_never_names_inputs() -> None:
    assert SamplingSpec(rate=0.1, never=("tokens",)).problem_with(INPUTS) is None
    problem = SamplingSpec(rate=0.1, never=("voice",)).problem_with(INPUTS)
    assert problem is not None
    assert problem.startswith("serving.sampling.never: voice is no input (there are tokens)")
