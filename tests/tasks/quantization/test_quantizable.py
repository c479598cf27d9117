from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tasks.errors import StageError
from tasks.quantization.quantizable import find_quantizable, keep_float

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[n,16,8,8] x) => (float[n,16,8,8] y)
{
    [stem] s = Conv(x, w0)
    [left] a = Conv(s, w1)
    [right] b = Conv(s, w2)
    [sum] t = Add(a, b)
    [last] c = Conv(t, w3)
    [skip] y = Add(c, s)
}
"""


def parse(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return model


@pytest.fixture
def branches() -> onnx.ModelProto:
    """Two additions: one of two convolutions, and one of a convolution with the stem."""
    return parse(BRANCHES, **{f"w{number}": (16, 16, 1, 1) for number in range(4)})


def test_additions_are_no_layers_of_their_own(branches: onnx.ModelProto) -> None:
    plan = find_quantizable(branches)
    assert plan.nodes == ("stem", "left", "right", "last", "sum", "skip")
    assert plan.layers == ("stem", "left", "right", "last")
    assert plan.fused == (("sum", 0), ("skip", 0))
    assert plan.excluded == ()


def test_an_addition_whose_convolution_is_left_out_is_fused_with_the_other(branches: onnx.ModelProto) -> None:
    plan = find_quantizable(branches, ["left"])
    assert plan.fused == (("sum", 1), ("skip", 0))
    assert plan.excluded == ("left",)


def test_an_addition_without_a_convolution_is_left_out_with_it(branches: onnx.ModelProto) -> None:
    plan = find_quantizable(branches, ["last", "left", "right"])
    assert plan.nodes == ("stem",)
    assert plan.excluded == ("left", "right", "last", "sum", "skip")
    assert plan.activations == ("x",)


def test_an_addition_can_be_left_out_by_itself(branches: onnx.ModelProto) -> None:
    plan = find_quantizable(branches, ["skip"])
    assert plan.fused == (("sum", 0),)
    assert plan.layers == ("stem", "left", "right", "last")


def test_what_is_not_quantized_anyway_cannot_be_left_out(branches: onnx.ModelProto) -> None:
    with pytest.raises(StageError, match=r"1 of the 2 nodes to leave out \(lest\) are none of the 6"):
        find_quantizable(branches, ["left", "lest"])
    with pytest.raises(StageError, match="all 4 layers are left out"):
        find_quantizable(branches, ["stem", "left", "right", "last"])


PAIRS = """
<ir_version: 8, opset_import: ["" : 17]>
pairs (float[n,16] x, float[] scale, int8[] zero) => (float[n,16] y)
{
    [q] xq = QuantizeLinear(x, scale, zero)
    [d] xd = DequantizeLinear(xq, scale, zero)
    [one] a = MatMul(xd, w)
    [two] b = MatMul(xd, w)
    [sum] y = Add(a, b)
}
"""


def test_a_node_that_is_kept_float_reads_before_the_pair_and_others_behind_it() -> None:
    model = parse(PAIRS, w=(16, 16))
    keep_float(model, {"one"})
    inputs = {node.name: node.input[0] for node in model.graph.node}
    assert (inputs["one"], inputs["two"]) == ("x", "xd")


def test_a_pair_that_nobody_reads_any_more_is_removed() -> None:
    model = parse(PAIRS, w=(16, 16))
    keep_float(model, {"one", "two"})
    assert [node.name for node in model.graph.node] == ["one", "two", "sum"]
