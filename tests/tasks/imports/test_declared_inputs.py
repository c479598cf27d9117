from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from tasks.errors import InputError
from tasks.imports.declared_inputs import read_declared
from tasks.imports.input_guesses import guess_inputs
from tasks.imports.origin import find_origin
from tasks.imports.synthetic import make_synthetic
from tasks.readers.interface import Reading

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.imports.declared_inputs import Declared


def save_onnx(path: Path, shape: list[Any]) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.INT32, shape)
    y = helper.make_tensor_value_info("y", TensorProto.INT32, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), path)
    return path


def declared(path: Path) -> Declared:
    found = read_declared(find_origin(str(path)))
    assert found is not None
    return found


def test_an_onnx_file_says_names_types_and_dimensions(tmp_path: Path) -> None:
    found = declared(save_onnx(tmp_path / "m.onnx", ["n", "seq.len", 4]))
    assert found.inputs["x"].dtype == "int32"
    assert found.inputs["x"].shape == ("batch", "seq_len", 4)
    assert found.bounds == {}
    assert found.outputs == ("y",)


def test_a_fixed_number_of_samples_is_that_of_every_call(tmp_path: Path) -> None:
    found = declared(save_onnx(tmp_path / "m.onnx", [2, 3]))
    data = Reading(({"x": np.zeros((5, 3), np.int64)},))
    guesses = guess_inputs(data, found, "data.npz")
    assert guesses.dims["batch"].value == {"min": 2, "opt": 2, "max": 2}
    assert guesses.groups[0]["x"].dtype == np.int32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((5, 4), np.int32)}, "axis 1 of x is 4, and the source takes 3 only"),
        ({"x": np.zeros((5, 3, 1), np.int32)}, "x has 3 axes, and m.onnx takes 2"),
        ({"z": np.zeros((5, 3), np.int32)}, "column 'z' is no input of m.onnx .x.; name it so: --column z=input_name"),
        ({"x": np.zeros((5, 3))}, "x is float64, and m.onnx takes int32; save it as int32"),
    ],
)
def test_data_that_are_not_what_the_source_declares_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    found = declared(save_onnx(tmp_path / "m.onnx", [2, 3]))
    with pytest.raises(InputError, match=message):
        guess_inputs(Reading((arrays,)), found, "data.npz")


def test_an_archive_of_torch_export_is_read_and_not_unpickled(tmp_path: Path) -> None:
    size = {"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 4}}}
    module = {
        "graph": {"tensor_values": {"x": {"dtype": 7, "sizes": [size, {"as_int": 8}]}}},
        "signature": {"input_specs": [{"parameter": {}}, {"user_input": {"arg": {"as_tensor": {"name": "x"}}}}]},
    }
    content = {"graph_module": module, "range_constraints": {"s0": {"min_val": 2, "max_val": 64}}}
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/models/model.json", json.dumps(content))
    found = declared(tmp_path / "m.pt2")
    assert (found.inputs["x"].dtype, found.inputs["x"].shape) == ("float32", ("batch", 8))
    assert found.bounds == {"batch": (2, 64)}
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"m\.pt2: is no archive of torch.export"):
        declared(tmp_path / "m.pt2")


def test_made_up_samples_are_those_of_the_seed_and_have_padding(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    config = {"architectures": ["BertModel"], "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 3}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "bert" / "model.safetensors")
    origin = find_origin(str(tmp_path / "bert"))
    one, two = (make_synthetic(read_declared(origin), 40, origin.longest, 0, "bert") for _ in range(2))
    assert one.samples == 40
    for first, second in zip(one.groups, two.groups, strict=True):
        assert (first["input_ids"] == second["input_ids"]).all()
        assert (first["input_ids"][first["attention_mask"] == 0] == 3).all()
        assert first["input_ids"].max() < 50
    assert [group["input_ids"].shape[1] for group in one.groups] == [16, 32, 40, 40]
