from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tasks.calibration.sets import read_set
from tasks.errors import InputError
from tasks.imports.declared_inputs import Declared, DeclaredInput
from tasks.imports.importing import ImportRequest, import_model, refuse_moved
from tasks.imports.input_guesses import guess_inputs
from tasks.model.model_directory import read_model_directory
from tasks.readers.interface import Reading
from tasks.samples.npz import load_arrays
from tasks.stages.ingest import ingest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, {input}):
        hidden = self.layer({input})
        vector = nn.functional.normalize(hidden, dim=-1)
        return {{"classes": hidden.softmax(-1), "best": hidden.argmax(-1), "vector": vector,
                "quality": torch.sigmoid(hidden[:, 0]), "cache": None}}

def build():
    return Net()
def build_other():
    return 3
def build_textual():
    class Textual(nn.Module):
        def forward(self, features):
            return {{"words": "none"}}
    return Textual()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny_net"
    folder.mkdir()
    (folder / "model.py").write_text(SOURCE.format(input="features"))
    torch.manual_seed(3)
    save_file(
        {f"layer.{name}": tensor for name, tensor in nn.Linear(4, 3).state_dict().items()}, folder / "w.safetensors"
    )
    return folder


def save_data(path: Path, samples: int = 400, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(samples, 4)),
        "label": np.array(["no", "yes"])[rng.integers(0, 2, samples)],
        "slice.site": np.array(["north", "south"])[rng.integers(0, 2, samples)],
        "group": np.arange(samples) // 2,
    }
    np.savez(path, **(arrays | changes))
    return path


def request_of(tmp_path: Path, folder: Path, **changes: Any) -> ImportRequest:
    base = {"source": f"{folder}/model.py:build", "into": tmp_path / "made", "data": tmp_path / "data.npz"}
    return ImportRequest(**(base | changes))


def test_a_directory_is_whole_and_each_guess_has_its_reason(here: InProcess, tmp_path: Path, source: Path) -> None:
    save_data(tmp_path / "data.npz")
    made = import_model(here, request_of(tmp_path, source))
    directory = read_model_directory(tmp_path / "made")
    spec = directory.spec
    assert spec.name == "tiny-net"
    assert (spec.weights, spec.inputs["features"].dtype) == ("w.safetensors", "float32")
    assert spec.inputs["features"].shape == ("batch", 4)
    kinds = {name: declared.kind.value for name, declared in spec.outputs.items()}
    assert kinds == {"classes": "probabilities", "best": "labels", "vector": "embedding", "quality": "score"}
    assert spec.outputs["quality"].range == (0, 1)
    assert [precision.value for precision in spec.precisions] == ["fp16", "int8"]
    lines = made.text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith(("name:", "inputs:", "dims:", "outputs:")) and "#" not in line:
            assert lines[number - 1].lstrip().startswith("#"), line
    assert json.loads((tmp_path / "made" / "labels.json").read_text()) == {"no": 0, "yes": 1}
    assert "0=no, 1=yes" in made.text.replace("\n# ", " ")
    assert ingest(here, spec, directory.validation, "validation.data").result.samples == made.validation_samples


def test_no_group_is_in_both_the_calibration_set_and_the_validation_data(
    here: InProcess, tmp_path: Path, source: Path
) -> None:
    save_data(tmp_path / "data.npz")
    made = import_model(here, request_of(tmp_path, source))
    assert (made.validation_samples, made.calibration_samples) == (320, 80)
    checked = read_set(tmp_path / "made" / "calibration", tmp_path)
    drawn = [load_arrays(path) for path in checked.files]
    kept = [load_arrays(path) for path in read_model_directory(tmp_path / "made").validation]
    of_drawn, of_kept = ({int(value) for part in parts for value in part["group"]} for parts in (drawn, kept))
    assert not of_drawn & of_kept
    assert set(checked.manifest.strata) == {"site"}
    assert "label" not in drawn[0]


def test_the_same_import_writes_the_same_bytes(here: InProcess, tmp_path: Path, source: Path) -> None:
    save_data(tmp_path / "data.npz")
    contents = []
    for name in ("one", "two"):
        import_model(here, request_of(tmp_path, source, into=tmp_path / name, name="same"))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_an_input_that_the_data_do_not_name_is_called_as_forward_calls_it(
    here: InProcess, tmp_path: Path, source: Path
) -> None:
    (source / "model.py").write_text(SOURCE.format(input="picture"))
    (source / "w.safetensors").unlink()
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    import_model(here, request_of(tmp_path, source, data=tmp_path / "images"))
    spec = read_model_directory(tmp_path / "made").spec
    assert list(spec.inputs) == ["picture"]
    assert spec.inputs["picture"].shape == ("batch", 3, 2, 4)
    assert [precision.value for precision in spec.precisions] == ["fp16"], "too few for a calibration set"


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        ({}, {"extra": np.zeros(400)}, "data.npz: column extra: the module's forward takes no 'extra'"),
        ({}, {"features": np.zeros((400, 4), complex)}, "features is complex128, which no engine takes"),
        ({}, {"features": np.full((400, 4), np.nan)}, "features holds NaN or Inf in 400 rows"),
        ({}, {"features": np.zeros((400, 5))}, "the module's forward raised"),
        ({"source": "{source}/model.py:build_other"}, {}, "returned int, not a torch.nn.Module"),
        ({"source": "{source}/model.py:build_textual"}, {}, "returns no tensor, but str"),
        ({"source": "{source}/nothing.py:build"}, {}, "nothing.py: is no file"),
        ({"source": "{source}"}, {}, "has neither config.json"),
        ({"source": "{source}.bin"}, {}, "does not exist"),
        ({"source": "{source}/state.bin"}, {}, "is a pickle, which can run code(?s:.*)save_file.*state.bin"),
    ],
)
def test_what_cannot_be_imported_is_told_and_leaves_nothing(
    here: InProcess, tmp_path: Path, source: Path, changes: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    save_data(tmp_path / "data.npz", **arrays)
    (source / "state.bin").write_bytes(b"anything")
    if "build_textual" in changes.get("source", ""):
        (source / "w.safetensors").unlink()
    changes = {name: value.format(source=source) for name, value in changes.items()}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        import_model(here, request_of(tmp_path, source, **changes))
    assert sorted(path for path in tmp_path.iterdir() if path.name != "store") == [
        p for p in before if p.name != "store"
    ]


def test_a_folder_that_is_there_is_refused_and_stays(here: InProcess, tmp_path: Path, source: Path) -> None:
    save_data(tmp_path / "data.npz")
    (tmp_path / "made").mkdir()
    with pytest.raises(InputError, match="is there already"):
        import_model(here, request_of(tmp_path, source))
    assert not list((tmp_path / "made").iterdir())


def test_made_up_data_need_a_source_that_says_its_inputs(here: InProcess, tmp_path: Path, source: Path) -> None:
    with pytest.raises(InputError, match="does not say the shapes of its inputs"):
        import_model(here, request_of(tmp_path, source, data=None, synthetic=40))


class Fours(nn.Module):
    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.reshape(4, -1).mean(1)


def test_torchscript_of_one_batch_size_and_data_without_names_is_imported_with_that_size_told(
    here: InProcess, tmp_path: Path
) -> None:
    torch.jit.trace(Fours(), torch.rand(4, 3, 2, 4)).save(str(tmp_path / "fours.pt"))
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    made = import_model(
        here, ImportRequest(source=str(tmp_path / "fours.pt"), into=tmp_path / "made", data=tmp_path / "images")
    )
    spec = read_model_directory(tmp_path / "made").spec
    assert list(spec.inputs) == ["picture"]
    assert spec.dims["batch"].model_dump(include={"min", "opt", "max"}) == {"min": 4, "opt": 4, "max": 4}
    assert any("takes 4 samples a call and no other number" in note for note in made.notes)


def test_a_program_for_few_samples_is_run_on_no_more(here: InProcess, tmp_path: Path) -> None:
    batch = {0: torch.export.Dim("batch", min=2, max=8)}
    program = torch.export.export(nn.Linear(4, 3).eval(), (torch.rand(3, 4),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "linear.pt2")
    np.savez(tmp_path / "data.npz", input=np.random.default_rng(0).normal(size=(40, 4)))
    import_model(here, request_of(tmp_path, tmp_path, source=str(tmp_path / "linear.pt2")))
    assert read_model_directory(tmp_path / "made").spec.dims["batch"].max == 8


def test_a_checkpoint_of_pickles_is_refused_where_it_lies_with_a_command_for_all_its_shards(
    here: InProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertModel"], "vocab_size": 9}')
    for name in ("pytorch_model-1-of-2", "pytorch_model-2-of-2", "training_args"):
        (folder / f"{name}.bin").touch()
    with pytest.raises(InputError, match=rf"cd {folder} && .* pytorch_model-1-of-2.bin pytorch_model-2-of-2.bin$"):
        import_model(here, request_of(tmp_path, tmp_path, source=str(folder), data=None, synthetic=40))


def test_tokens_that_the_model_has_no_row_for_are_of_another_tokenizer() -> None:
    tokens = DeclaredInput("int64", ("batch", "sequence"), 8)
    reading = Reading(({"input_ids": np.full((2, 3), 9)},))
    with pytest.raises(InputError, match=r"holds 9, and the vocabulary of config.json ends at 8"):
        guess_inputs(reading, Declared({"input_ids": tokens}, by="config.json"), "rows.jsonl")


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of an MLflow model: a program of `features`, whose signature does not name its input."""
    import mlflow.pytorch  # noqa: PLC0415 - takes seconds
    from mlflow.models import infer_signature  # noqa: PLC0415 - as above

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    example = np.zeros((3, 4), np.float32)
    mlflow.pytorch.save_model(
        nn.Linear(4, 3).eval(), tmp_path / "one", signature=infer_signature(example), input_example=example,
        serialization_format="pt2", pip_requirements=["torch"],
    )  # fmt: skip
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "data" / "other").touch()
    client = mlflow.MlflowClient(tracking_uri=address)
    client.create_registered_model("linear")
    for folder in ("one", "two"):
        client.create_model_version("linear", source=str(tmp_path / folder))
    client.set_registered_model_alias("linear", "champion", "1")
    return "models:/linear@champion"


def test_an_mlflow_models_signature_says_its_inputs_and_an_alias_that_moves_is_told(
    here: InProcess, tmp_path: Path, logged: str
) -> None:
    made = import_model(here, request_of(tmp_path, tmp_path, source=logged, data=None, synthetic=40))
    spec = read_model_directory(tmp_path / "made").spec
    assert {name: (one.dtype, one.shape) for name, one in spec.inputs.items()} == {"input": ("float32", ("batch", 4))}
    assert "version 1 was imported" in made.text
    refuse_moved(made)
    from mlflow import MlflowClient  # noqa: PLC0415 - as above

    MlflowClient().set_registered_model_alias("linear", "champion", "2")
    with pytest.raises(InputError, match="version of models:/linear@champion was 1 when it was imported, and is 2 now"):
        refuse_moved(made)


def test_a_flavor_that_is_no_source_and_data_outside_of_the_model_are_told_before_the_data(
    here: InProcess, tmp_path: Path
) -> None:
    (tmp_path / "odd").mkdir()
    cases = {"sklearn: {x: 1}": "odd/MLmodel: flavors: sklearn", "transformers: {model_binary: ../..}": "names ../.."}
    for said, message in cases.items():
        (tmp_path / "odd" / "MLmodel").write_text(f"flavors: {{{said}}}")
        with pytest.raises(InputError, match=message):
            import_model(here, request_of(tmp_path, tmp_path, source=str(tmp_path / "odd")))


def test_data_that_an_mlflow_model_does_not_take_are_told_by_column(
    here: InProcess, tmp_path: Path, logged: str
) -> None:
    np.savez(tmp_path / "data.npz", features=np.zeros((40, 4)))
    with pytest.raises(InputError, match=r"data.npz: column features: source.mlflow: \S+ takes input; rename it by --"):
        import_model(here, request_of(tmp_path, tmp_path, source=logged))
    np.savez(tmp_path / "data.npz", input=np.zeros((40, 5)))
    with pytest.raises(InputError, match="axis 1 of input is 5, and the source takes 4 only"):
        import_model(here, request_of(tmp_path, tmp_path, source=logged))
