from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from tasks.graphs.value_names import rename_values, repeated_names

TEXT = """<ir_version: 9, opset_import: ["" : 20]> named (float[n] private_in) => (float[n] private_out)
{
  softmax = Relu(private_in)
  yes = Constant<value = bool {1}>()
  branched = If (yes) <
    then_branch = then () => (float[n] left) { left = Add(private_in, softmax) },
    else_branch = other () => (float[n] right) { right = Sub(private_in, softmax) }
  >
  private_out = Neg(branched)
}"""


def test_values_get_their_names_also_in_branches_and_others_make_way() -> None:
    model = onnx.parser.parse_model(TEXT)
    x = np.array([-1, 2], np.float32)
    rename_values(model, {"private_in": "left", "private_out": "softmax"})
    onnx.checker.check_model(model, full_check=True)
    assert repeated_names(model) == []
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["left"]
    np.testing.assert_array_equal(session.run(["softmax"], {"left": x})[0], -(x + np.maximum(x, 0)))


def test_a_name_of_two_values_is_found_also_across_branches() -> None:
    model = onnx.parser.parse_model(TEXT)
    assert repeated_names(model) == []
    model.graph.node[0].output[0] = "left"
    assert repeated_names(model) == ["left"]
