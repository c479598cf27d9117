from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import yaml
from torch import nn

from tasks.errors import InputError
from tasks.imports.importing import ImportRequest, import_model
from tasks.imports.logged_example import read_example
from tasks.model.model_directory import read_model_directory
from tasks.readers.interface import UNNAMED
from tasks.samples.npz import load_arrays, shard_paths

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess

PAIR = {"input1": np.full((2, 3), 0.5, np.float32), "input2": np.ones((2, 4), np.float32)}


def log(folder: Path, module: nn.Module, example: Any, **said: Any) -> Path:
    """A folder of a model of MLflow that carries an input example."""
    import mlflow.pytorch  # noqa: PLC0415 - takes seconds

    mlflow.pytorch.save_model(
        module.eval(), folder, input_example=example, pip_requirements=["torch"], serialization_format="pickle",
        **{"signature": False, **said},
    )  # fmt: skip
    return folder


def request_of(root: Path, source: Path, **arrays: Any) -> ImportRequest:
    """An import of `source` with data.npz, or with 40 made-up samples."""
    if not arrays:
        return ImportRequest(source=str(source), into=root / "made", synthetic=40)
    np.savez(root / "data.npz", **arrays)
    return ImportRequest(source=str(source), into=root / "made", data=root / "data.npz")


def validation_of(made: Path) -> dict[str, Any]:
    (shard,) = shard_paths(made / "validation")
    return load_arrays(shard)


def plain(text: str) -> str:
    """Comments as one line."""
    return " ".join(text.replace("#", " ").split())


def test_without_a_signature_the_example_says_names_shapes_and_values_of_made_up_samples(
    here: InProcess, tmp_path: Path
) -> None:
    logged = log(tmp_path / "pair", nn.Bilinear(3, 4, 2), {**PAIR, "input1": np.array([[0, 5, 7], [1, 5, 9.0]])})
    made = import_model(here, request_of(tmp_path, logged))
    spec = read_model_directory(tmp_path / "made").spec
    assert {name: (one.dtype, one.shape) for name, one in spec.inputs.items()} == {
        "input1": ("float32", ("batch", 3)),
        "input2": ("float32", ("batch", 4)),
    }
    assert "the input example in MLmodel has [2, 3], values from 0 to 9" in plain(made.text)
    made_up = validation_of(tmp_path / "made")
    low, high = made_up["input1"].min(0), made_up["input1"].max(0)
    assert (low >= [0, 0, 7]).all()
    assert (high <= [1, 10, 9]).all()
    assert (high > low).all()
    assert made_up["input2"].shape[1:] == (4,)


def test_an_axis_that_the_signature_leaves_open_has_the_examples_extent_where_samples_are_made_up(
    here: InProcess, tmp_path: Path
) -> None:
    from mlflow.models import ModelSignature  # noqa: PLC0415 - takes seconds
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415 - as above

    signature = ModelSignature(Schema([TensorSpec(np.dtype(np.int64), (-1, -1))]))
    example = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])
    logged = log(tmp_path / "rows", nn.Embedding(7, 3), example, signature=signature)
    import_model(here, request_of(tmp_path, logged))
    dims = read_model_directory(tmp_path / "made").spec.dims
    assert [(dim.min, dim.max) for name, dim in dims.items() if name != "batch"] == [(5, 5)]
    made_up = next(iter(validation_of(tmp_path / "made").values()))
    assert (made_up.min(), made_up.max()) == (1, 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input1": np.zeros((40, 3))}, "data.npz: has no 'input2', which the input example in MLmodel takes; add it"),
        (
            {"input1": np.zeros((40, 3)), "other": np.zeros((40, 4))},
            r"column 'other' is no input of the input example in MLmodel \(input1, input2\); name it so: --column",
        ),
        (
            {"input1": np.zeros((40, 3, 1)), "input2": np.zeros((40, 4))},
            "data.npz: input1 has 3 axes, and the input example in MLmodel takes 2",
        ),
        (
            {"input1": np.zeros((40, 5)), "input2": np.zeros((40, 4))},
            "axis 1 of input1 is 5 in the data, and 3 in the input example in MLmodel: bring data of the ex",
        ),
    ],
)
def test_data_unlike_the_example_are_told_with_field_and_remedy(
    here: InProcess, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    logged = log(tmp_path / "pair", nn.Bilinear(3, 4, 2), PAIR)
    with pytest.raises(InputError, match=message):
        import_model(here, request_of(tmp_path, logged, **arrays))
    assert not (tmp_path / "made").exists()


def test_fractions_for_an_input_whose_example_is_whole_are_refused(here: InProcess, tmp_path: Path) -> None:
    logged = log(tmp_path / "rows", nn.Embedding(7, 3), {"input": np.ones((2, 5), np.int64)})
    with pytest.raises(InputError, match="input is float64, and the input example in MLmodel takes int64; save it as"):
        import_model(here, request_of(tmp_path, logged, input=np.ones((40, 5))))


def test_samples_of_another_extent_that_the_model_takes_too_are_told(here: InProcess, tmp_path: Path) -> None:
    logged = log(tmp_path / "rows", nn.Embedding(7, 3), {"input": np.ones((2, 5), np.int64)})
    made = import_model(here, request_of(tmp_path, logged, input=np.ones((40, 9), np.int64)))
    told = (
        "axis 1 of input is 9 in the data, and 5 in the input example in MLmodel: widen dims if serving sends that too"
    )
    assert told in made.notes


def test_a_table_is_one_matrix_as_mlflows_own_wrapper_gives_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": [31, 44], "weight": [71.5, 80.0]})
    logged = log(tmp_path / "table", nn.Linear(2, 1), table)
    found = read_example(logged, yaml.safe_load((logged / "MLmodel").read_text())["saved_input_example_info"])
    assert found.arrays[UNNAMED].tolist() == [[31, 71.5], [44, 80]]
    assert found.arrays[UNNAMED].dtype == np.float32


@pytest.mark.parametrize(
    "example", ["a text", ["two", "texts"], {"text": "a"}, [[1, 2], [3]], [1.0, 2.0], {"a": [[1.0]], "b": [[1], [2]]}]
)
def test_what_says_no_tensors_is_left_out(tmp_path: Path, example: Any) -> None:
    info = write_example(tmp_path, json.dumps(example))
    assert read_example(tmp_path, info) == ({}, "")


@pytest.mark.parametrize(
    ("content", "name", "why"),
    [("[[1.0, ", "", "Expecting value"), (None, "", "is no file of the model"), ("[[1]]", "../MLmodel", "is no file")],
)
def test_an_example_that_cannot_be_read_is_told_and_the_model_is_imported_without(
    here: InProcess, tmp_path: Path, content: str | None, name: str, why: str
) -> None:
    from mlflow.models import infer_signature  # noqa: PLC0415 - takes seconds

    rows = np.zeros((2, 4), np.float32)
    logged = log(tmp_path / "plain", nn.Linear(4, 3), rows, signature=infer_signature(rows))
    (logged / "input_example.json").unlink() if content is None else (logged / "input_example.json").write_text(content)
    if name:
        text = (logged / "MLmodel").read_text()
        (logged / "MLmodel").write_text(text.replace("artifact_path: input_example.json", f"artifact_path: {name}"))
    made = import_model(here, request_of(tmp_path, logged))
    (note,) = [note for note in made.notes if "example" in note]
    assert note.startswith("the input example in MLmodel cannot be read and is not used (")
    assert why in note


def write_example(folder: Path, text: str) -> dict[str, str]:
    """A model's folder that holds an example in MLflow's form, and what MLmodel says of it."""
    info = {"artifact_path": "input_example.json", "type": "json_object"}
    (folder / "input_example.json").write_text(text)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {}, "saved_input_example_info": info}))
    return info
