from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tasks.graphs.onnx_files import write_model
from tasks.graphs.structure import structure_digest

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = (
    '<ir_version: 9, opset_import: ["" : 17]> g (float[batch,4] x) => (float[batch,4] y)'
    " <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] b = {1,2,3,4}, float low = {-1}, float high = {1},"
    " float scale = {0.5}, int8 zero = {0}, int64[2] shape = {-1,4}>"
    " { p = MatMul(x, w) a = Add(p, b) c = Clip(a, low, high) q = QuantizeLinear(c, scale, zero)"
    " d = DequantizeLinear(q, scale, zero) y = Reshape(d, shape) }"
)
IN_A_BRANCH = (
    '<ir_version: 9, opset_import: ["" : 17]> g (float[batch,4] x, bool c) => (float[batch,4] y)'
    " <float[4] b = {1,2,3,4}> { y = If(c) <then_branch = t () => (float[N,4] o) { o = Add(x, b) },"
    " else_branch = e () => (float[N,4] o) { o = Relu(x) }> }"
)


def digest(folder: Path, text: str = GRAPH, external_bytes: int = 1 << 30, **values: Any) -> str:
    """The structure of a graph with other values for some of its initializers."""
    model = onnx.parser.parse_model(text)
    for tensor in model.graph.initializer:
        before = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.get(tensor.name, before).astype(before.dtype), tensor.name))
    folder.mkdir(exist_ok=True)
    return structure_digest(write_model(model, folder, external_bytes=external_bytes))


def test_the_values_of_weights_are_no_part_of_it(tmp_path: Path) -> None:
    assert digest(tmp_path) == digest(tmp_path, w=np.arange(16).reshape(4, 4), b=np.zeros(4))


@pytest.mark.parametrize(
    "values",
    [
        {"low": np.array(-2)},
        {"high": np.array(2)},
        {"scale": np.array(0.25)},
        {"zero": np.array(1)},
        {"shape": np.array([4, -1])},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_a_parser_may_bake_into_a_plan_is_a_part_of_it(tmp_path: Path, values: dict[str, Any]) -> None:
    assert digest(tmp_path) != digest(tmp_path, **values)


def test_a_weight_of_another_shape_or_type_or_name_is_another_structure(tmp_path: Path) -> None:
    changes = [
        ("float[4] b = {1,2,3,4}", "float[1,4] b = {1,2,3,4}"),
        ("float[4] b = {1,2,3,4}", "float16[4] b = {1,2,3,4}"),
        ("float[4] b = {1,2,3,4}", "float[4] bias = {1,2,3,4}"),
        ("p = MatMul(x, w)", "p = MatMul(w, x)"),
        ("b = {1,2,3,4}", "b = {1,2,3,4}, float[4] unused = {1,2,3,4}"),
    ]
    found = [digest(tmp_path, GRAPH.replace(*change)) for change in changes]
    assert len({digest(tmp_path), *found}) == len(changes) + 1


def test_a_weight_that_something_else_takes_as_well_is_none(tmp_path: Path) -> None:
    both = GRAPH.replace("y = Reshape(d, shape)", "e = PRelu(d, b) y = Reshape(e, shape)")
    assert digest(tmp_path, both) != digest(tmp_path, both, b=np.zeros(4))
    assert digest(tmp_path, IN_A_BRANCH) != digest(tmp_path, IN_A_BRANCH, b=np.zeros(4))


def test_of_the_data_beside_a_graph_what_is_no_weight_counts(tmp_path: Path) -> None:
    ends = ", ".join("0" * 400)
    big = GRAPH.replace("int8 zero", f"float[400] ends = {{{ends}}}, int8 zero")
    outer = digest(tmp_path / "outer", big, external_bytes=0)
    assert (tmp_path / "outer" / "model.onnx.data").exists()
    assert outer == digest(tmp_path / "other", big, external_bytes=0, w=np.zeros((4, 4)))
    assert outer != digest(tmp_path / "ends", big, external_bytes=0, ends=np.ones(400))
