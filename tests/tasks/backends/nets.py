"""Small nets, one a kind of layer, typed as the converters leave them: FP16 inside, float at their ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OPSET, OPSET_OF_BF16 = 20, 22
BF16 = TensorProto.BFLOAT16


@dataclass(frozen=True)
class Net:
    """What it computes of `x`, a tensor of `shape`, as `y`; weights are of its kind too, or whole numbers as given.

    `half` is that kind. `zeros` are zero points of FP8.
    """

    body: str
    shape: tuple[str | int, ...] = ("batch", 16)
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    half: int = TensorProto.FLOAT16
    zeros: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write `model.onnx`."""
        folder.mkdir(parents=True)
        opset = OPSET if self.half == TensorProto.FLOAT16 else OPSET_OF_BF16
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : {opset}]> net (float[{",".join(map(str, self.shape))}] input)'
            f" => (float output) {{ x = Cast<to={self.half}>(input) {self.body} output = Cast<to=1>(y) }}"
        )
        random = np.random.default_rng(0)
        for name, shape in self.weights.items():
            values = np.abs(0.1 * random.standard_normal(shape)) + 0.01  # scales are positive
            kind = helper.tensor_dtype_to_np_dtype(self.half)
            model.graph.initializer.append(numpy_helper.from_array(values.astype(kind), name))
        for name, values in self.numbers.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        for name in self.zeros:
            model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True))
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred, full_check=True)
        onnx.save(inferred, folder / "model.onnx")
        return folder / "model.onnx"


IMAGE = ("batch", 16, 8, 8)
SEQUENCE = ("time", "batch", 16)
PAIR = "{0}q = QuantizeLinear({0}, {1}) {0}d = DequantizeLinear({0}q, {1}) "
PAIR8 = "{0}q = QuantizeLinear({0}, {1}, z) {0}d = DequantizeLinear({0}q, {1}, z) "
SCALES = {"s": (), "t": ()}
ATTENTION = (
    "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c) kt = Transpose<perm=[0,2,1]>(k) w = MatMul(q, kt)"
    " p = Softmax<axis=-1>(w) y = MatMul(p, v)"
)
NETS = {
    "product": Net("y = MatMul(x, w)", weights={"w": (16, 8)}),
    "gemm": Net("y = Gemm(x, w, b)", weights={"w": (16, 8), "b": (8,)}),
    "convolution": Net("y = Conv<pads=[1,1,1,1]>(x, w, b)", IMAGE, {"w": (16, 16, 3, 3), "b": (16,)}),
    "depthwise": Net("y = Conv<group=16, pads=[1,1,1,1]>(x, w)", IMAGE, {"w": (16, 1, 3, 3)}),
    "deconvolution": Net("y = ConvTranspose<strides=[2,2]>(x, w)", IMAGE, {"w": (16, 8, 2, 2)}),
    "pooling": Net(
        "m = MaxPool<kernel_shape=[2,2]>(x) a = AveragePool<kernel_shape=[2,2]>(m) y = GlobalAveragePool(a)", IMAGE
    ),
    "layer_norm": Net("y = LayerNormalization(x, w, b)", weights={"w": (16,), "b": (16,)}),
    "batch_norm": Net("y = BatchNormalization(x, a, b, c, d)", IMAGE, dict.fromkeys("abcd", (16,))),
    "instance_norm": Net("y = InstanceNormalization(x, a, b)", IMAGE, dict.fromkeys("ab", (16,))),
    "activations": Net("a = Relu(x) b = Sigmoid(a) c = Tanh(b) d = Erf(c) e = HardSwish(d) y = Softmax<axis=-1>(e)"),
    "attention": Net(ATTENTION, ("batch", "time", 16), dict.fromkeys("abc", (16, 16))),
    "lstm": Net("y, h, c = LSTM<hidden_size=8>(x, w, r)", SEQUENCE, {"w": (1, 32, 16), "r": (1, 32, 8)}),
    "gru": Net(
        "y, h = GRU<hidden_size=8, linear_before_reset=1>(x, w, r)", SEQUENCE, {"w": (1, 24, 16), "r": (1, 24, 8)}
    ),
    "embedding": Net("i = Cast<to=7>(x) y = Gather(table, i)", weights={"table": (32, 8)}),
    "resize": Net('s = Constant<value = float[4] {1, 1, 2, 2}>() y = Resize<mode="nearest">(x, , s)', IMAGE),
    "reductions": Net(
        "a = ReduceMean<keepdims=1>(x, one) b = ReduceMax<keepdims=1>(x, one) y = Add(a, b)", numbers={"one": (1,)}
    ),
    "ranking": Net("v, i = TopK<axis=-1>(x, k) f = Cast<to=10>(i) y = Add(v, f)", numbers={"k": (4,)}),
    "shapes": Net(
        "a, b = Split<axis=1, num_outputs=2>(x) c = Concat<axis=0>(a, b) d = Reshape(c, rows)"
        " e = Transpose<perm=[1,0]>(d) f = Slice(e, zero, two, zero) y = Unsqueeze(f, zero)",
        numbers={"rows": (-1, 4), "zero": (0,), "two": (2,)},
    ),
    "choices": Net("z = Sub(x, x) c = Greater(x, z) y = Where(c, x, z)"),
    "product_int8": Net(
        PAIR.format("x", "s") + PAIR.format("w", "t") + "y = MatMul(xd, wd)", weights={"w": (16, 16), **SCALES}
    ),
    "convolution_int8": Net(
        PAIR.format("x", "s") + PAIR.format("w", "t") + "y = Conv<pads=[1,1,1,1]>(xd, wd)",
        IMAGE,
        {"w": (16, 16, 3, 3), **SCALES},
    ),
}
OF_FP8 = {
    "product_fp8": Net(
        PAIR8.format("x", "s") + PAIR8.format("w", "t") + "y = MatMul(xd, wd)",
        weights={"w": (16, 16), **SCALES},
        zeros=("z",),
    ),
    "convolution_fp8": Net(
        PAIR8.format("x", "s") + PAIR8.format("w", "t") + "y = Conv<pads=[1,1,1,1]>(xd, wd)",
        IMAGE,
        {"w": (16, 16, 3, 3), **SCALES},
        zeros=("z",),
    ),
}
OF_BF16 = {
    "product_bf16": Net("y = MatMul(x, w)", weights={"w": (16, 8)}, half=BF16),
    "convolution_bf16": Net("y = Conv<pads=[1,1,1,1]>(x, w, b)", IMAGE, {"w": (16, 16, 3, 3), "b": (16,)}, half=BF16),
    "layer_norm_bf16": Net("y = LayerNormalization(x, w, b)", weights={"w": (16,), "b": (16,)}, half=BF16),
    "attention_bf16": Net(ATTENTION, ("batch", "time", 16), dict.fromkeys("abc", (16, 16)), half=BF16),
}
PRECISIONS_OF_TODAY = {"fp8": OF_FP8, "bf16": OF_BF16}
