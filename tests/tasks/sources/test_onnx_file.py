from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch

from tasks.errors import InputError
from tasks.model.model_directory import ModelDirectory, read_model_directory
from tasks.sources import SOURCES, outside_of
from tasks.sources.onnx_file import OnnxFile
from tasks.stages.export import export_onnx
from tasks.torch_side.module_source import module_key
from tests.tasks.sources.checkpoints import loaded
from tests.tasks.tiny import SCORER, make_features, score, write_model_folder, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess


def write(tmp_path: Path, name: str = "model.onnx", **changes: Any) -> ModelDirectory:
    return read_model_directory(write_model_folder(tmp_path / "model", source={"onnx": name}, **changes))


def with_external_data(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(model, str(path), save_as_external_data=True, location="model.data", size_threshold=45)


def test_the_reference_is_what_onnx_runtime_gives_of_the_file(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model")
    directory = write(tmp_path)
    assert [type(kind) for kind in SOURCES if kind.takes(directory.spec.source)] == [OnnxFile]
    features = make_features(5)
    found = loaded(directory, tmp_path / "laid out")(features=torch.from_numpy(features))
    assert np.allclose(found["score"], score(features), atol=1e-6)
    assert directory.spec.reference == "the ONNX file in FP32 on ONNX Runtime"


def test_the_export_is_the_file_in_its_own_opset_with_the_declared_outputs(here: InProcess, tmp_path: Path) -> None:
    write_onnx(tmp_path / "model", outputs="float[batch,4] p, float[batch] score")
    model = onnx.load(tmp_path / "model" / "model.onnx")
    model.opset_import[0].version = 18
    onnx.save(model, tmp_path / "model" / "model.onnx")
    with_external_data(tmp_path / "model" / "model.onnx")
    exported = export_onnx(here, write(tmp_path)).result
    assert exported.opset == 18
    assert exported.recipe["exporter"] == "none"
    assert max(exported.checks.values()) == 0
    with here.store.scratch() as folder:
        graph = onnx.load(next(here.store.fetch(exported.onnx, folder / "onnx").glob("*.onnx"))).graph
    assert [value.name for value in graph.output] == ["score"]
    assert {node.op_type for node in graph.node} == {"Mul", "ReduceSum", "Sigmoid"}


def test_data_beside_the_file_is_part_of_the_key_and_laid_out(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "beside")
    with_external_data(path)
    directory = write(tmp_path, "../beside/model.onnx")
    before, outside = module_key(directory), outside_of(directory)
    assert set(outside) == {"model.onnx", "model.data"}
    data = path.with_name("model.data")
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert module_key(directory) != before
    assert outside_of(directory)["model.data"] != outside["model.data"]
    loaded(directory, tmp_path / "laid out")
    assert {file.name for file in (tmp_path / "laid out" / "source").iterdir()} == {"model.onnx", "model.data"}
    data.unlink()
    with pytest.raises(InputError, match=r"source.onnx: model.onnx: tensor .* 'model.data', which is missing"):
        module_key(directory)


DIMS = {"batch": {"min": 1, "opt": 8, "max": 16}}


@pytest.mark.parametrize(
    ("changes", "file", "words"),
    [
        (
            {"inputs": {"x": {"dtype": "float32", "shape": ["batch", 4]}}},
            {},
            "inputs.x: .* no such input, but features",
        ),
        ({"outputs": {"label": {"kind": "score"}}}, {}, "outputs.label: .* no such output, but score"),
        ({"inputs": {"features": {"dtype": "int64", "shape": ["batch", 4]}}}, {}, "dtype: int64, .* takes float32"),
        ({"inputs": {"features": {"dtype": "float32", "shape": ["batch", 5]}}}, {}, r"shape: .*takes \['batch', 4\]"),
        ({}, {"batch": "2"}, r"shape: \['batch', 4\], and .* takes \[2, 4\]; declare fixed extents"),
        ({}, {"body": f"h = Cast<to=10>(features) {SCORER}"}, ""),
    ],
)
def test_a_file_that_does_not_fit_model_yaml_is_told_with_the_field(
    tmp_path: Path, changes: dict[str, Any], file: dict[str, str], words: str
) -> None:
    write_onnx(tmp_path / "model", **file)
    directory = write(tmp_path, **changes)
    if words:
        with pytest.raises(InputError, match=rf"(?s)model.yaml: .*{words}"):
            loaded(directory, tmp_path / "laid out")
    else:
        assert loaded(directory, tmp_path / "laid out")


@pytest.mark.parametrize("what", ["half", "quantized"])
def test_a_file_that_is_not_in_fp32_is_refused(tmp_path: Path, what: str) -> None:
    path = write_onnx(tmp_path / "model")
    model = onnx.load(path)
    if what == "half":
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2, np.float16), "half"))
    else:
        model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["p", "w"], ["q"]))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"source.onnx: model.onnx: holds weights in half precision, or quantized"):
        loaded(write(tmp_path), tmp_path / "laid out")


def test_a_file_that_is_no_onnx_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"source.onnx: model.onnx: cannot be read as ONNX"):
        module_key(write(tmp_path))


def test_weights_beside_an_onnx_file_are_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model")
    with pytest.raises(InputError, match="weights: a source onnx brings its own; remove the key"):
        write(tmp_path, weights="weights.safetensors")
