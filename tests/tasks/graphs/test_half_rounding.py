from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from onnx import numpy_helper

from tasks.graphs.half_rounding import keep_half_rounding

MATRIX, BIAS = np.full((4, 4), 0.3, np.float16), np.array([0.1, 0.2, 0.3, 0.4], np.float16)


def parse(body: str) -> onnx.ModelProto:
    """A graph from x to y, with the FP16 weights m and w at hand."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[n,4] x) => (float[n,4] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in ((MATRIX, "m"), (BIAS, "w")))
    return model


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


LARGE = np.full((2, 4), 60000, np.float32)


def test_a_sum_beyond_half_precision_is_infinite() -> None:
    model = parse("h = Cast<to=10>(x) d = Add(h, h) e = Sub(d, h) y = Cast<to=1>(e)")
    assert np.isfinite(run(model, LARGE)).all(), "ONNX Runtime alone keeps FP32's range"
    assert keep_half_rounding(model)
    assert np.isinf(run(model, LARGE)).all()


def test_a_graph_without_half_precision_stays_as_it_is() -> None:
    model = parse("d = Add(x, x) y = Tanh(d)")
    before = model.SerializeToString()
    assert not keep_half_rounding(model)
    assert model.SerializeToString() == before


def test_what_the_graph_computes_in_fp32_is_not_rounded() -> None:
    model = parse("s = Mul(x, x) h = Cast<to=10>(x) t = Tanh(h) u = Cast<to=1>(t) y = Add(s, u)")
    assert keep_half_rounding(model)
    np.testing.assert_allclose(run(model, LARGE), LARGE * LARGE + 1, rtol=1e-6)


def test_moved_values_are_rounded_no_second_time() -> None:
    model = parse(
        "h = Cast<to=10>(x) t = Tanh(h) p = Transpose<perm=[1,0]>(t) q = Transpose<perm=[1,0]>(p) y = Cast<to=1>(q)"
    )
    assert keep_half_rounding(model)
    assert kinds(model) == ["Cast", "Cast", "Tanh", "Cast", "Transpose", "Transpose", "Cast"]


def test_a_product_and_its_bias_are_rounded_once() -> None:
    model = parse("h = Cast<to=10>(x) p = MatMul(h, m) b = Add(p, w) y = Cast<to=1>(b)")
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    assert keep_half_rounding(model)
    exact = x.astype(np.float16).astype(np.float32) @ MATRIX.astype(np.float32) + BIAS.astype(np.float32)
    found = run(model, x)
    assert np.mean(found == exact.astype(np.float16).astype(np.float32)) > 0.99, "but for the order of a sum"


def test_a_product_that_another_node_reads_too_is_rounded() -> None:
    model = parse("h = Cast<to=10>(x) p = MatMul(h, m) b = Add(p, w) d = Sub(b, p) y = Cast<to=1>(d)")
    assert keep_half_rounding(model)
    assert np.isnan(run(model, LARGE)).all(), "infinite less infinite"


def test_the_body_of_an_if_is_rounded_too() -> None:
    bodies = "then_branch = one () => (float16[n,4] a) { c = Add(h, h) a = Sub(c, h) }"
    bodies += ", else_branch = two () => (float16[n,4] b) { b = Sub(h, h) }"
    model = parse(f"h = Cast<to=10>(x) yes = Constant<value = bool {{1}}>() d = If(yes) <{bodies}> y = Cast<to=1>(d)")
    assert keep_half_rounding(model)
    assert np.isinf(run(model, LARGE)).all()


def test_names_that_are_taken_already_stay_what_they_are() -> None:
    model = parse("h = Cast<to=10>(x) taken = Tanh(h) t = Add(h, taken) y = Cast<to=1>(t)")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["h.single" if name == "taken" else name for name in names]
    assert keep_half_rounding(model)
    np.testing.assert_allclose(run(model, np.ones((1, 4), np.float32)), 1 + np.tanh(1.0), rtol=1e-3)
