from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.graphs.cpu_form import as_cpu_runs

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((3, 16)).astype(np.float32)
W = RANDOM.standard_normal((16, 8)).astype(np.float32)
PER_COLUMN = (np.abs(W).max(axis=0) / 448).astype(np.float32)
PAIRS = (
    "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
    " wq = QuantizeLinear<axis=1>(w, t, u) wd = DequantizeLinear<axis=1>(wq, t, u)"
)
MOVED = f"{PAIRS} r = Reshape(xd, rows) p = Transpose<perm=[0,1]>(r) y = MatMul(p, wd)"
"""What ONNX Runtime moves Q/DQ nodes over, without asking whether it has the type."""


def parse(body: str, *weights: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 22]> g (float[n,16] x) => (float[n,m] y) {{ {body} }}'
    )
    model.graph.initializer.extend(weights)
    return model


def of_eight_bits(body: str) -> onnx.ModelProto:
    zeros = [
        helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, shape, bytes(count), raw=True)
        for name, shape, count in (("z", [], 1), ("u", [8], 8))
    ]
    arrays = {"s": np.array(0.01, np.float32), "t": PER_COLUMN, "w": W, "rows": np.array([-1, 16], np.int64)}
    return parse(body, *(numpy_helper.from_array(array, name) for name, array in arrays.items()), *zeros)


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any] = X, *, optimised: bool = True) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_fp8_written_out_gives_what_the_nodes_give_and_survives_the_optimiser() -> None:
    model = of_eight_bits(MOVED)
    expected = run(model, optimised=False)
    with pytest.raises(Exception, match="float8e4m3fn"):  # when it passes, `cpu_form` may go
        run(model)
    assert as_cpu_runs(model)
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(expected, X @ W, atol=1e-3), "it does round"


def test_fp8_stops_at_its_largest_value() -> None:
    model = of_eight_bits("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)")
    assert as_cpu_runs(model)
    found = run(model, np.full((1, 16), -1e6, np.float32))
    np.testing.assert_allclose(found, -4.48, rtol=1e-6)


def test_fp8_of_half_precision_is_rounded_once_and_what_is_around_it_to_half() -> None:
    half = "h = Cast<to=10>(x) sh = Cast<to=10>(s) q = QuantizeLinear(h, sh, z) d = DequantizeLinear(q, sh, z)"
    model = of_eight_bits(f"{half} e = Add(d, d) y = Cast<to=1>(e)")
    expected = run(model, optimised=False)
    assert as_cpu_runs(model)
    np.testing.assert_array_equal(run(model), expected)


def test_int8_and_fp32_stay_as_they_are() -> None:
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    model = parse("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Tanh(d)", scale, zero)
    before = model.SerializeToString()
    assert not as_cpu_runs(model)
    assert model.SerializeToString() == before


def test_bf16_runs_with_the_rounding_of_bf16() -> None:
    """8 bits of significand: what lies between two numbers of BF16 goes to the nearer one."""
    body = "b = Cast<to=16>(x) c = Greater(b, b) e = Where(c, b, b) f = Add(e, e) t = Transpose<perm=[0,1]>(f)"
    model = parse(f"{body} y = Cast<to=1>(t)")
    with pytest.raises(Exception, match="Could not find an implementation"):
        run(model)
    assert as_cpu_runs(model)
    x = np.full((1, 16), 1 + 2**-9, np.float32)
    x[0, 1] = 1 + 2**-7 + 2**-9
    found = run(model, x)
    assert found[0, 0] == 2.0
    assert found[0, 1] == 2 * (1 + 2**-7)


def test_bf16_holds_what_half_precision_cannot() -> None:
    model = parse("b = Cast<to=16>(x) s = Mul(b, b) y = Cast<to=1>(s)")
    assert as_cpu_runs(model)
    found = run(model, np.full((1, 16), 1000, np.float32))
    np.testing.assert_allclose(found, 1e6, rtol=2**-7)
