"""An exported graph of whole numbers is right where they are equal, however large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import pytest

from tasks.errors import StageError
from tasks.graphs.interface import CheckExportRequest
from tasks.graphs.onnx_check import check_export
from tasks.process.child import ignore_progress
from tasks.samples.npz import save_shard
from tasks.samples.shapes import check_shapes
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
keys (int64[batch, 4] item) => (int64[batch, 4] key) {{
  step = Constant<value = int64 {{{step}}}>()
  key = Add(item, step)
}}
"""


def request_of(folder: Path, step: int) -> CheckExportRequest:
    """A graph that adds `step` where the module adds 1."""
    spec = tiny_spec(inputs={"item": {"dtype": "int64", "shape": ["batch", 4]}}, outputs={"key": {"kind": "labels"}})
    onnx.save(onnx.parser.parse_model(GRAPH.format(step=step)), folder / "model.onnx")
    (folder / "expected").mkdir()
    for number, shape in enumerate(check_shapes(spec.dims)):
        item = np.full((shape["batch"], 4), 2**40, np.int64)
        save_shard(folder / "expected", number, {"in.item": item, "out.key": item + 1})
    return CheckExportRequest(onnx=folder / "model.onnx", expected=folder / "expected", spec=spec, progress_before=0)


def test_a_graph_that_is_off_by_one_beyond_what_float32_holds_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path, 2)
    with pytest.raises(StageError, match=r"output key: .* by 100 % of its elements at .*, more than 0.1 % of its"):
        check_export(request.model_dump(mode="json"), ignore_progress)


def test_an_exact_graph_is_right(tmp_path: Path) -> None:
    found = check_export(request_of(tmp_path, 1).model_dump(mode="json"), ignore_progress)
    assert set(found.values()) == {0.0}
