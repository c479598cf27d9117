from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import StageError
from tasks.graphs.fourier import basis, write_out_transforms
from tasks.graphs.opset17 import lower_to_17

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare", "Sum")
Array = np.ndarray[Any, Any]


def graph(
    nodes: list[onnx.NodeProto],
    shape: list[int | str | None],
    constants: dict[str, Array] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model from `x` to `outputs`, of unknown shapes."""
    made = helper.make_graph(
        nodes,
        "lowered",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in opset 17, by whose schemas ONNX Runtime then reads it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    lower_to_17(copy)
    assert copy.opset_import[0].version == 17
    return copy


def same(model: onnx.ModelProto, x: Array) -> None:
    for before, after in zip(run(model, x), run(lowered(model), x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def positive(*shape: int) -> Array:
    return np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("axes", [[1], [-1, 1], None])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_are_what_they_were_in_opset_18(kind: str, axes: list[int] | None, keepdims: int) -> None:
    inputs = ["x"] if axes is None else ["x", "axes"]
    node = helper.make_node(f"Reduce{kind}", inputs, ["y"], keepdims=keepdims)
    same(graph([node], ["n", 3, 4], {} if axes is None else {"axes": np.array(axes)}), positive(2, 3, 4))


def test_axes_out_of_a_constant_node_are_found_and_empty_ones_may_mean_no_reduction() -> None:
    axes = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([2])))
    same(graph([axes, helper.make_node("ReduceMean", ["x", "axes"], ["y"])], ["n", 3, 4]), positive(2, 3, 4))
    idle = helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1)
    same(graph([idle], ["n", 3, 4]), positive(2, 3, 4))


def test_axes_that_are_computed_are_refused_with_the_node_and_what_to_do() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["extents"], start=0, end=1),
        helper.make_node("ReduceMean", ["x", "extents"], ["y"], name="mean_of_a_wish"),
    ]
    with pytest.raises(StageError, match=r"ReduceMean 'mean_of_a_wish' .*axes are not constant; set export.opset: 18"):
        lower_to_17(graph(nodes, ["n", 3, 4]))


def test_parts_pads_sizes_and_mish_are_what_they_were() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=2, num_outputs=3),
        helper.make_node("Pad", ["a", "pads", "", "axes"], ["p"]),
        helper.make_node("Resize", ["b", "", "scales"], ["r"], mode="linear", antialias=0),
        helper.make_node("Mish", ["c"], ["m"]),
    ]
    constants = {
        "pads": np.array([1, 2]),
        "axes": np.array([1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    same(graph(nodes, ["n", 3, 7, 4], constants, ("p", "r", "m")), positive(2, 3, 7, 4))


@pytest.mark.parametrize("kind", ["Col2Im", "BitwiseNot"])
def test_an_operator_that_came_later_is_named(kind: str) -> None:
    with pytest.raises(StageError, match=rf"{kind} 'new' has no form in opset 17: it came with opset 18; set"):
        lower_to_17(graph([helper.make_node(kind, ["x"], ["y"], name="new")], ["n", 3]))


def test_a_branch_is_lowered_too() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        node = helper.make_node(kind, ["x", "axes"], [f"{kind}_out"])
        return helper.make_graph([node], kind, [], [helper.make_tensor_value_info(f"{kind}_out", 1, None)])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["is_large"]),
        helper.make_node("If", ["is_large"], ["y"], then_branch=branch("ReduceMean"), else_branch=branch("ReduceMax")),
    ]
    model = graph(nodes, [2, 3], {"axes": np.array([1]), "zero": np.float32(0)})
    same(model, positive(2, 3))
    same(model, -positive(2, 3))


@pytest.mark.parametrize("size", [12, 11, 8, 16])
@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_transform_of_constant_size_is_numpys(size: int, onesided: int, axis: int) -> None:
    node = helper.make_node("DFT", ["x", "size"], ["y"], axis=axis, onesided=onesided)
    model = graph([node], ["n", 12, 12, 1], {"size": np.array(size)}, opset=17)
    write_out_transforms(model)
    x = positive(2, 12, 12, 1)
    expected = (np.fft.rfft if onesided else np.fft.fft)(x[..., 0], size, axis=axis)
    (found,) = run(model, x)
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, atol=1e-4)


@pytest.mark.parametrize(("size", "onesided"), [(12, 0), (12, 1), (11, 1)])
def test_an_inverse_is_numpys(size: int, onesided: int) -> None:
    bins = size // 2 + 1 if onesided else size
    x = np.random.default_rng(0).standard_normal((2, bins, 2)).astype(np.float32)
    node = helper.make_node("DFT", ["x", "size"], ["y"], axis=1, inverse=1, onesided=onesided)
    model = graph([node], ["n", bins, 2], {"size": np.array(size)}, opset=17)
    write_out_transforms(model)
    (found,) = run(model, x)
    values = x[..., 0] + 1j * x[..., 1]
    if onesided:
        np.testing.assert_allclose(found[..., 0], np.fft.irfft(values, size, axis=1), atol=1e-5)
    else:
        np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], np.fft.ifft(values, axis=1), atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
def test_a_spectrogram_is_onnx_runtimes(onesided: int) -> None:
    node = helper.make_node("STFT", ["x", "hop", "window"], ["y"], onesided=onesided)
    constants = {"hop": np.array(8), "window": np.hanning(16).astype(np.float32)}
    model = graph([node], ["n", "time", 1], constants, opset=17)
    x = positive(2, 50, 1)
    (expected,) = run(model, x)
    write_out_transforms(model)
    assert {node.op_type for node in model.graph.node} == {"Reshape", "Conv", "Transpose"}
    np.testing.assert_allclose(run(model, x)[0], expected, atol=1e-4)


def test_a_transform_of_any_size_is_refused_with_what_can_be_had() -> None:
    node = helper.make_node("DFT", ["x"], ["y"], axis=1, name="spectrum")
    with pytest.raises(StageError, match=r"DFT 'spectrum' .*not constant; fix the size: torch.stft with a constant"):
        write_out_transforms(graph([node], ["n", "time", 1], opset=17))


def test_a_basis_takes_rows_beyond_the_size_for_nothing() -> None:
    real, imaginary = basis(6, 4, 4)
    assert not real[4:].any()
    assert not imaginary[4:].any()
    np.testing.assert_allclose(real[:4] + 1j * imaginary[:4], np.fft.fft(np.eye(4)), atol=1e-12)
