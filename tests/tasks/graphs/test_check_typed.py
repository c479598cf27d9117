from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import StageError
from tasks.graphs.interface import CheckTypedRequest
from tasks.graphs.onnx_check import check_typed
from tasks.process.child import ignore_progress
from tasks.samples.npz import save_shard
from tests.tasks.tiny import SCORER, make_features, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

OTHER = SCORER.replace("Mul(features, w)", "Sub(features, w)")
FIXED = "eight = Constant<value_ints=[8, 4]>() f = Reshape(features, eight)" + SCORER.replace("features", "f")


def check(folder: Path, converted: str, original: str = SCORER, samples: float | None = None, **asked: Any) -> int:
    if samples is not None:
        (folder / "samples").mkdir()
        save_shard(folder / "samples", 0, {"features": samples * make_features(8)})
    request = CheckTypedRequest(
        onnx=write_onnx(folder / "converted", body=converted),
        original=write_onnx(folder / "original", body=original),
        spec=tiny_spec(),
        samples=None if samples is None else folder / "samples",
        **asked,
    )
    return check_typed(request.model_dump(mode="json"), ignore_progress)


def test_a_converted_graph_is_run_at_every_check_shape_and_not_at_opt_alone(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"cannot run the converted graph at batch=1, where it runs the exported one"):
        check(tmp_path, FIXED)


def test_a_trial_is_run_at_opt_alone(tmp_path: Path) -> None:
    assert check(tmp_path, FIXED, opt_only=True) == 20


def test_a_converted_graph_that_computes_something_else_is_refused_where_a_limit_is_given(tmp_path: Path) -> None:
    assert check(tmp_path, OTHER) == 20
    with pytest.raises(
        StageError, match=r"output score: the converted graph differs from the exported one by .* batch=1"
    ):
        check(tmp_path, OTHER, most_error=0.05)


def test_a_converted_graph_that_gives_nan_where_the_exported_one_does_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="differs from the exported one by nan"):
        check(
            tmp_path, "z = Sub(features, features) q = Div(z, z) score = ReduceSum<keepdims=0>(q, one)", most_error=0.5
        )


def test_what_is_not_finite_in_the_exported_graph_is_compared_nowhere(tmp_path: Path) -> None:
    body = "l = Log(features) score = ReduceSum<keepdims=0>(l, one)"
    assert check(tmp_path, body, body, most_error=0.5) == 20


def test_shapes_at_which_the_exported_graph_takes_no_such_samples_are_left_out(tmp_path: Path) -> None:
    assert check(tmp_path, FIXED, FIXED, samples=1.0, most_error=0.5) == 20
    nowhere = FIXED.replace("8, 4", "7, 4")
    with pytest.raises(StageError, match="runs at none of the check shapes"):
        check(tmp_path, nowhere, nowhere)


def test_another_output_shape_at_another_extent_is_refused(tmp_path: Path) -> None:
    body = "f = Slice(s, zero, eight) score = Identity(f)"
    scored = SCORER.replace("score", "s")
    constants = "zero = Constant<value_ints=[0]>() eight = Constant<value_ints=[8]>()"
    with pytest.raises(StageError, match=r"gives shape \[8\] at batch=16, the exported one \[16\]"):
        check(tmp_path, f"{constants} {scored} {body}")


def test_values_that_half_precision_cannot_tell_from_zero_are_no_difference(tmp_path: Path) -> None:
    tiny = "{} c = Constant<value_float=0.00002>() score = Mul(s, c)".format(SCORER.replace("score", "s"))
    assert check(tmp_path, f"{tiny.replace('score', 'x')} score = Sub(x, x)", tiny, most_error=0.5) == 20
    assert np.finfo(np.float16).tiny > 0.00002
