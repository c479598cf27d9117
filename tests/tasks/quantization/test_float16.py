from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tasks.process.child import ignore_progress
from tasks.quantization.float16 import convert
from tasks.quantization.interface import ConvertRequest
from tests.tasks.tiny import make_features, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

CASTS = "i = Cast<to=7>(features) f = Cast<to=1>(i) p = Mul(f, w) score = ReduceSum<keepdims=0>(p, one)"
READ_AGAIN = "score = Mul(features, w) t = Tanh(score) other = Mul(t, w)"


@pytest.mark.parametrize(
    ("body", "outputs"),
    [(CASTS, "float[batch] score"), (READ_AGAIN, "float[batch,4] score, float[batch,4] other")],
    ids=["a cast to float", "an output that is read again"],
)
def test_the_fallback_converts_a_graph_with(tmp_path: Path, body: str, outputs: str) -> None:
    exported = write_onnx(tmp_path / "onnx", body=body, outputs=outputs)
    (tmp_path / "result").mkdir()
    request = ConvertRequest(onnx=exported, output=tmp_path / "result", spec=tiny_spec(), external_bytes=1 << 30)
    convert(request.model_dump(mode="json"), ignore_progress)
    path = tmp_path / "result" / "model.onnx"
    halves = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in halves
    feeds = {"features": make_features(5)}
    for found, exact in zip(*(ort.InferenceSession(each).run(None, feeds) for each in (path, exported)), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact, atol=3e-3)
