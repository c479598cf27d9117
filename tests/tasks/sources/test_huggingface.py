from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from tasks.errors import InputError
from tasks.model.version import content_of_directory, version_of
from tasks.sources import SOURCES, outside_of, source_of
from tasks.sources.huggingface import HuggingFaceFolder
from tasks.torch_side.module_source import module_key
from tests.tasks.sources.checkpoints import loaded, tiny_bert, write_directory

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[5, 6, 7, 8, 9, 1]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint in one file and in shards."""
    root, model = tmp_path_factory.mktemp("checkpoints"), tiny_bert()
    model.save_pretrained(root / "one")
    model.save_pretrained(root / "shards", max_shard_size="8KB")
    return {"one": root / "one", "shards": root / "shards"}


@pytest.fixture
def checkpoint(saved: dict[str, Path], tmp_path: Path) -> Path:
    """The sharded checkpoint, inside of a model directory."""
    return shutil.copytree(saved["shards"], tmp_path / "model" / "checkpoint")


def problem(tmp_path: Path, source: object = None) -> str:
    directory = write_directory(tmp_path / "model", source or {"huggingface": "checkpoint"})
    with pytest.raises(InputError) as error:
        loaded(directory, tmp_path / "laid out")
    return str(error.value)


@pytest.mark.parametrize("form", ["one", "shards"])
def test_a_checkpoint_gives_what_the_saved_model_gives(saved: dict[str, Path], tmp_path: Path, form: str) -> None:
    shutil.copytree(saved[form], tmp_path / "model" / "checkpoint")
    directory = write_directory(tmp_path / "model", {"huggingface": "./checkpoint"})
    assert [type(kind) for kind in SOURCES if kind.takes(directory.spec.source)] == [HuggingFaceFolder]
    module, expected = loaded(directory, tmp_path / "laid out"), tiny_bert()
    assert type(module) is type(expected)
    with torch.no_grad():
        assert torch.equal(module.eval()(input_ids=IDS).logits, expected(input_ids=IDS).logits)


def test_class_names_another_way_to_load_it(checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint.is_dir()
    source = {"huggingface": "checkpoint", "class": "AutoModel"}
    directory = write_directory(tmp_path / "model", source)
    assert type(loaded(directory, tmp_path / "laid out")).__name__ == "BertModel"
    again = type(directory.spec).model_validate_json(directory.spec.model_dump_json())
    assert again == directory.spec


def test_nothing_but_what_the_key_covers_is_laid_out(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "modeling.py").write_text("raise SystemExit\n")
    (checkpoint / "adapter_config.json").write_text("{}")
    directory = write_directory(tmp_path / "model", {"huggingface": "checkpoint"})
    key = source_of(directory.spec.source).key(directory)["checkpoint"]
    loaded(directory, tmp_path / "laid out")
    found = {path.name for path in (tmp_path / "laid out" / "source").iterdir()}
    assert isinstance(key, dict)
    assert found == set(key)
    assert found >= {"config.json", "model.safetensors.index.json"}
    assert not found & {"modeling.py", "adapter_config.json", "generation_config.json"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_another_byte_in_a_file_makes_another_key(checkpoint: Path, tmp_path: Path, name: str) -> None:
    directory = write_directory(tmp_path / "model", {"huggingface": "checkpoint"})
    before = module_key(directory)
    (checkpoint / name).write_text((checkpoint / name).read_text() + "\n")
    assert module_key(directory) != before
    assert module_key(directory)["source"] == {"huggingface": "checkpoint"}


def test_a_checkpoint_beside_the_directory_is_part_of_the_version(saved: dict[str, Path], tmp_path: Path) -> None:
    beside = shutil.copytree(saved["shards"], tmp_path / "beside")
    directory = write_directory(tmp_path / "model", {"huggingface": "../beside"})

    def version() -> str:
        return version_of(content_of_directory(directory, outside_of(directory)))

    before = version()
    assert version() == before
    shard = next(beside.glob("*-00002-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    assert version() != before


def test_the_release_of_transformers_is_part_of_the_version(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoint.is_dir()
    directory = write_directory(tmp_path / "model", {"huggingface": "checkpoint"})
    before = outside_of(directory)
    monkeypatch.setattr("tasks.sources.huggingface.release_of", {"transformers": "5.0.0"}.get)
    assert outside_of(directory) == {**before, "transformers": "5.0.0"}
    assert set(before) == {"transformers"}


def test_an_index_that_names_a_missing_shard_is_told_with_the_shard(checkpoint: Path, tmp_path: Path) -> None:
    shard = next(checkpoint.glob("*-00002-*"))
    shard.unlink()
    text = problem(tmp_path)
    assert "source.huggingface: checkpoint/model.safetensors.index.json: weight_map: names" in text
    assert shard.name in text
    assert "download the missing shard" in text


def test_a_shard_that_is_cut_off_is_told_with_its_bytes(checkpoint: Path, tmp_path: Path) -> None:
    shard = next(checkpoint.glob("*-00001-*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    text = problem(tmp_path)
    assert f"{shard.name}: is not a whole safetensors file: it has {len(content) - 10:,} of {len(content):,}" in text
    shard.write_bytes(content[:20])
    assert "its header is cut off" in problem(tmp_path)


def test_pickled_weights_are_refused_with_the_command_that_makes_safetensors_of_them(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model" / "checkpoint"
    folder.mkdir(parents=True)
    shutil.copy(saved["one"] / "config.json", folder)
    torch.save(tiny_bert().state_dict(), folder / "pytorch_model.bin")
    text = problem(tmp_path)
    assert "a pickle (pytorch_model.bin), which can run code" in text
    command = text.partition("process of its own: ")[2].replace("&& python ", f"&& {sys.executable} ")
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - what the message tells a person to do
    assert loaded(write_directory(tmp_path / "model", {"huggingface": "checkpoint"}), tmp_path / "again")


def edit(checkpoint: Path, **changes: Any) -> None:
    config = {**json.loads((checkpoint / "config.json").read_text()), **changes}
    (checkpoint / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))


def test_what_is_wrong_with_a_configuration_is_told_with_its_key(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint, architectures=["BertForNothing"])
    assert "config.json: architectures: Transformers 5" in (text := problem(tmp_path))
    assert "has no model class 'BertForNothing'" in text
    edit(checkpoint, architectures=None)
    assert "config.json: architectures: missing" in problem(tmp_path)
    (checkpoint / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in problem(tmp_path)
    (checkpoint / "config.json").unlink()
    assert "source.huggingface: checkpoint: has no config.json; save the model with" in problem(tmp_path)


def test_weights_that_would_be_drawn_at_random_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint.is_dir()
    text = problem(tmp_path, {"huggingface": "checkpoint", "class": "BertForMaskedLM"})
    assert "has no weights for cls.predictions" in text
    edit(checkpoint, num_hidden_layers=3)
    shutil.rmtree(tmp_path / "laid out")
    assert "has no weights for bert.encoder.layer.2" in problem(tmp_path)


OWN = """
from transformers import PretrainedConfig, PreTrainedModel
from torch import nn

class OwnConfig(PretrainedConfig):
    model_type = "own"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(2, 2)
        self.post_init()
    def forward(self, x):
        return self.layer(x)
"""


def test_code_of_the_folder_is_run_only_where_model_yaml_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(OWN)
    mapped = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": mapped}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {"layer.weight": torch.eye(2), "layer.bias": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"}
    )
    assert "auto_map: the model is Python code of the folder; read it, and write trust_remote_code" in problem(tmp_path)
    source = {"huggingface": "checkpoint", "trust_remote_code": True}
    directory = write_directory(tmp_path / "model", source)
    assert type(loaded(directory, tmp_path / "laid out again")).__name__ == "OwnModel"
    before = module_key(directory)
    (folder / "own.py").write_text(f"{OWN}\n")
    assert module_key(directory) != before
