from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import pytest

from tasks.graphs.ties import tied_ranks

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """<ir_version: 9, opset_import: ["" : 20]> ranked (float[n,4] x) => (int64[n,2] places, float[n,4] twice)
<int64[1] k = {2}>
{ twice = Add(x, x)  values, places = TopK<largest = 0>(twice, k) }"""


@pytest.mark.parametrize(
    ("row", "is_tied"),
    [([1, 2, 3, 4], False), ([1, 1, 3, 4], True), ([1, 2, 2, 4], True), ([1, 2, 4, 4], False)],
)
def test_equal_values_among_the_first_or_at_the_border_are_a_tie(
    tmp_path: Path, row: list[float], is_tied: bool
) -> None:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "model.onnx")
    told = tied_ranks(tmp_path / "model.onnx", "places", {"x": np.array([row], np.float32)})
    assert ("TopK ranks for output places, 100% of the rows" in told) is is_tied
    assert tied_ranks(tmp_path / "model.onnx", "twice", {"x": np.array([row], np.float32)}) == ""
