from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.declared import Dim
from tasks.specs import ModelSpec
from tests.tasks.tiny import changed

DIMS = {"batch": {"min": 1, "opt": 4, "max": 8}, "time": {"min": 4, "opt": 16, "max": 32}}


def spec(inputs: dict[str, Any], dims: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(changed(inputs=inputs, dims=dims or DIMS, **changes))


def floats(*shape: int | str) -> dict[str, Any]:
    return {"dtype": "float32", "shape": list(shape)}


def test_samples_come_first_wherever_they_stand_and_that_is_read_back() -> None:
    found = spec({"x": floats("time", "batch", 3), "scale": floats(), "anchors": floats(5, 2), "y": floats("batch")})
    assert {name: (s.shape, s.batch_axis) for name, s in found.inputs.items()} == {
        "x": (("batch", "time", 3), 1),
        "scale": (("batch",), None),
        "anchors": (("batch", 5, 2), None),
        "y": (("batch",), 0),
    }
    assert found.batch_dim == "batch"
    assert ModelSpec.model_validate_json(found.model_dump_json()) == found


def test_what_is_not_used_is_not_dumped() -> None:
    found = spec({"x": floats("batch", "time")}).model_dump(mode="json")
    assert found["inputs"]["x"] == {"dtype": "float32", "shape": ["batch", "time"], "pad": 0}
    assert found["dims"]["time"] == {"min": 4, "opt": 16, "max": 32, "buckets": None}


def test_an_extent_that_is_no_multiple_is_named_with_its_neighbours() -> None:
    assert Dim(min=16, opt=32, max=64, multiple_of=16).step == 16
    with pytest.raises(ValidationError, match="opt 40 is not a multiple_of 16; write 32 or 48"):
        Dim(min=16, opt=40, max=64, multiple_of=16)


def test_an_output_that_is_called_as_an_input_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"outputs.x: is the name of an input too"):
        spec({"x": floats("batch", "time")}, outputs={"x": {"kind": "tensor"}})


@pytest.mark.parametrize(
    ("bounds", "said"),
    [([1, "frames"], "'frames' is not declared; name a dimension of batch, time"), ([3, 2], "is empty")],
)
def test_a_range_that_cannot_be_is_refused(bounds: list[int | str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec({"x": floats("batch", "time"), "n": {"dtype": "int64", "shape": ["batch"], "range": bounds}})
