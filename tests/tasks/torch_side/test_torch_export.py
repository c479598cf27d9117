from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

from tasks.torch_side.torch_export import spell_out_shapes


@pytest.mark.parametrize("bounds", ["start=1, end=2", "start=-2", "end=-1", "start=0", "start=2, end=1", ""])
def test_a_shape_of_some_axes_is_the_same_slice_of_the_whole(bounds: str) -> None:
    attributes = f"<{bounds}>" if bounds else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[a,b,c] x) => (int64[n] y) {{ y = Shape{attributes}(x) }}'
    )
    x = np.zeros((2, 3, 4), np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    spell_out_shapes(model)
    assert not any(node.attribute for node in model.graph.node if node.op_type == "Shape")
    onnx.checker.check_model(model)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)
