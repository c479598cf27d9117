"""Which attention becomes the plugin's, and that the graph with it computes what it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tasks.backends.trt_attention import FUSED_POSITIONS, HEAD, OPERATOR, fuse_attention
from tasks.declared import Dim, InputSpec

HEADS, LONG = 2, FUSED_POSITIONS + 3
INPUTS = {"hidden": InputSpec(dtype="float32", shape=("batch", "positions", HEADS * HEAD))}
DIMS = {"batch": Dim(min=1, opt=2, max=2), "positions": Dim(min=1, opt=LONG, max=LONG)}
HEADER = '<ir_version: 8, opset_import: ["": 17]> attention (float[batch, positions, 128] hidden)'
SPLIT = """
    four = Constant<value_ints=[0, 0, 2, 64]>()
    split = Reshape(hidden, four)
    query = Transpose<perm=[0, 2, 1, 3]>(split)
    key = Transpose<perm=[0, 2, 3, 1]>(split)
    value = Transpose<perm=[0, 2, 1, 3]>(split)
"""
JOIN = """
    back = Transpose<perm=[0, 2, 1, 3]>(product)
    three = Constant<value_ints=[0, 0, 128]>()
    result = Reshape(back, three)
"""
PLAIN = """
    scores = MatMul(query, key)
    shares = Softmax<axis=-1>(scores)
    product = MatMul(shares, value)
"""


def graph(*parts: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER} => (float[batch, positions, 128] result) {{{''.join(parts)}}}")
    onnx.checker.check_model(model)
    return model


class EnginegateAttention(OpRun):
    """The plugin's node, in plain numpy."""

    op_domain = "enginegate"

    def _run(self, query: Any, key: Any, value: Any, scale: float) -> tuple[Any]:
        scores = np.einsum("bqhd,bkhd->bhqk", query.astype(np.float64), key.astype(np.float64)) * scale
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return (np.einsum("bhqk,bkhd->bqhd", shares, value).astype(query.dtype),)


def outputs(model: onnx.ModelProto, positions: int) -> Any:
    hidden = np.random.default_rng(positions).standard_normal((2, positions, HEADS * HEAD)).astype(np.float32)
    (result,) = ReferenceEvaluator(model, new_ops=[EnginegateAttention]).run(None, {"hidden": hidden})
    return result


SCALED = {
    "plain": PLAIN,
    "queries divided": "n = Constant<value_float=8.0>() q = Div(query, n)" + PLAIN.replace("query", "q"),
    "queries and keys scaled": (
        "n = Constant<value_float=0.3>() q = Mul(query, n) k = Mul(n, key)"
        + PLAIN.replace("query", "q").replace("(q, key)", "(q, k)")
    ),
    "scores scaled": (
        "n = Constant<value=float[1] {0.125}>() raw = MatMul(query, key) scores = Mul(raw, n)"
        "shares = Softmax<axis=3>(scores) product = MatMul(shares, value)"
    ),
    "softmax between casts": (
        "raw = MatMul(query, key) scores = Cast<to=11>(raw) wide = Softmax<axis=-1>(scores)"
        "shares = Cast<to=1>(wide) product = MatMul(shares, value)"
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_long_attention_becomes_one_node_without_transposes_that_computes_the_same(name: str) -> None:
    model, before = graph(SPLIT, SCALED[name], JOIN), graph(SPLIT, SCALED[name], JOIN)
    assert fuse_attention(model, INPUTS, DIMS) == 1
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Constant", "Reshape", OPERATOR, "Constant", "Reshape"]
    for positions in (7, LONG):
        assert outputs(model, positions) == pytest.approx(outputs(before, positions), abs=1e-5)


@pytest.mark.parametrize(
    ("inside", "after"),
    [
        pytest.param("k = Relu(key)" + PLAIN.replace("key", "k"), JOIN, id="keys by another node"),
        pytest.param("v = Neg(value)" + PLAIN.replace("value", "v"), JOIN, id="values by another node"),
        pytest.param(
            PLAIN, "more = Relu(product) sum = Add(more, product)" + JOIN.replace("product", "sum"), id="read twice"
        ),
    ],
)
def test_where_no_transpose_can_go_another_stands_beside_the_node(inside: str, after: str) -> None:
    model, before = graph(SPLIT, inside, after), graph(SPLIT, inside, after)
    assert fuse_attention(model, INPUTS, DIMS) == 1
    onnx.checker.check_model(model)
    assert outputs(model, LONG) == pytest.approx(outputs(before, LONG), abs=1e-5)


MASKED = PLAIN.replace("(scores)", "(masked)").replace("shares =", "masked = Add(scores, scores) shares =")
OTHER_AXIS = PLAIN.replace("axis=-1", "axis=2")
READ_BY_MORE = PLAIN.replace("product =", "s = Relu(shares) raw = Add(shares, s) product =").replace(
    "(shares, v", "(raw, v"
)
ONE_KEY_HEAD = "zero = Constant<value_ints=[0]>() k = Gather<axis=1>(key, zero)" + PLAIN.replace("key", "k")


@pytest.mark.parametrize(
    ("split", "inside", "positions"),
    [
        pytest.param(SPLIT, PLAIN, FUSED_POSITIONS, id="no more than TensorRT fuses"),
        pytest.param(SPLIT.replace("2, 64", "4, 32"), PLAIN, LONG, id="heads of another width"),
        pytest.param(SPLIT, MASKED, LONG, id="a mask"),
        pytest.param(SPLIT, OTHER_AXIS, LONG, id="a softmax over queries"),
        pytest.param(SPLIT, READ_BY_MORE, LONG, id="shares that more nodes read"),
        pytest.param(SPLIT, ONE_KEY_HEAD, LONG, id="one head of keys for all"),
    ],
)
def test_other_attention_stays_as_it_is(split: str, inside: str, positions: int) -> None:
    model = graph(split, inside, JOIN)
    before = model.SerializeToString()
    dims = DIMS | {"positions": Dim(min=1, opt=positions, max=positions)}
    assert fuse_attention(model, INPUTS, dims) == 0
    assert model.SerializeToString() == before
