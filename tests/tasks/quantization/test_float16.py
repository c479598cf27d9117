from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tasks.errors import StageError
from tasks.graphs.custom_ops import copy_libraries
from tasks.graphs.onnx_check import open_session
from tasks.process.child import ignore_progress
from tasks.quantization.float16 import convert
from tasks.quantization.interface import ConvertRequest
from tests.tasks.noise_floor import FLOOR, LIBRARY, noise_floor, write_floor
from tests.tasks.tiny import make_features, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext

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


def test_the_fallback_leaves_an_operation_of_a_library_in_the_type_that_it_was_written_for(tmp_path: Path) -> None:
    body = f"h = Tanh(features) {FLOOR.replace('features', 'h').replace('score', 'f')} score = Add(f, h)"
    exported = write_floor(tmp_path / "onnx", body, "float[batch,4] h, float[batch,4] f")
    (tmp_path / "result").mkdir()
    copy_libraries(exported, tmp_path / "result")
    request = ConvertRequest(onnx=exported, output=tmp_path / "result", spec=tiny_spec(), external_bytes=1 << 30)
    convert(request.model_dump(mode="json"), ignore_progress)
    path = tmp_path / "result" / "model.onnx"
    features = make_features(5)
    tanh = np.tanh(features)
    (found,) = open_session(path).run(None, {"features": features})
    np.testing.assert_allclose(found, noise_floor(tanh) + tanh, atol=2e-3)
    assert [node.op_type for node in onnx.load(path).graph.node].count("Cast") == 4


@pytest.mark.hardship(only=True)  # three seconds each to import ModelOpt
@pytest.mark.parametrize("converter", ["autocast", "modelopt_int8"])
def test_a_converter_that_cannot_load_libraries_says_so_by_their_names(
    context: StageContext, tmp_path: Path, converter: str
) -> None:
    (tmp_path / "result").mkdir()
    request = ConvertRequest(
        onnx=write_floor(tmp_path / "onnx"), output=tmp_path / "result", spec=tiny_spec(), external_bytes=1 << 30
    )
    with pytest.raises(StageError, match=rf"cannot load the operations of build.onnxruntime_plugins .{LIBRARY.name}"):
        context.call_in_child(f"tasks.quantization.{converter}:convert", request, dict[str, str], tmp_path)
