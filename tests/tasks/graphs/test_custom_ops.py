from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

from tasks.errors import StageError
from tasks.graphs.custom_ops import custom_operations, refuse_libraries, register_libraries
from tasks.graphs.onnx_check import open_session
from tests.tasks.noise_floor import LIBRARY, noise_floor, write_floor


def test_a_session_knows_the_operations_of_the_libraries_that_lie_beside_its_graph(tmp_path: Path) -> None:
    graph = write_floor(tmp_path)
    features = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    (found,) = open_session(graph).run(None, {"features": features})
    np.testing.assert_array_equal(found, noise_floor(features))
    shutil.rmtree(tmp_path / "plugins")
    with pytest.raises(Exception, match="NoiseFloor"):
        open_session(graph)


@pytest.mark.parametrize(("content", "reason"), [(b"", "too short"), (b"no library at all" * 9, "invalid ELF header")])
def test_a_library_that_cannot_be_loaded_is_told_by_name_and_not_by_path(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    graph = write_floor(tmp_path)
    (tmp_path / "plugins" / LIBRARY.name).write_bytes(content)
    with pytest.raises(
        StageError, match=rf"build.onnxruntime_plugins: {LIBRARY.name} cannot be loaded: .*{reason}"
    ) as told:
        register_libraries(ort.SessionOptions(), graph)
    assert str(tmp_path) not in str(told.value)


def test_a_library_of_something_else_is_refused(tmp_path: Path) -> None:
    graph = write_floor(tmp_path)
    shutil.copy(next(Path(ort.__file__).parent.glob("capi/libonnxruntime_providers_shared.so")), tmp_path / "plugins")
    with pytest.raises(StageError, match=r"libonnxruntime_providers_shared.so cannot be loaded: .*RegisterCustomOps"):
        register_libraries(ort.SessionOptions(), graph)


def test_a_converter_that_would_not_load_libraries_says_their_names(tmp_path: Path) -> None:
    graph = write_floor(tmp_path)
    with pytest.raises(StageError, match=rf"AutoCast cannot load .*onnxruntime_plugins .{LIBRARY.name}"):
        refuse_libraries(graph, "AutoCast")
    shutil.rmtree(tmp_path / "plugins")
    refuse_libraries(graph, "AutoCast")


def test_only_what_neither_onnx_nor_onnx_runtime_nor_the_graph_itself_defines_is_custom() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 3, "own" : 1, "local" : 1]>'
        " graph (float[4] x) => (float[4] y) { a = Relu(x) b = com.microsoft.Gelu(a) c = ai.onnx.ml.Binarizer(b)"
        " d = local.Twice(c) e = own.Other(d) y = own.Other(e) }"
        ' <domain: "local", opset_import: ["" : 17]> Twice (x) => (y) { y = Add(x, x) }'
    )
    assert custom_operations(model) == ["Other"]
