"""Each kind of bad input brought to an import: an error with file, field and remedy, and nothing half-written."""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks.errors import InputError
from tasks.imports.importing import ImportRequest, import_model
from tests.tasks.readers.tokenizers_on_disk import save_tokenizer, write_rows
from tests.tasks.sources.checkpoints import tiny_bert

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess

ROWS: list[dict[str, Any]] = [{"text": "where is my parcel", "label": row % 3} for row in range(40)]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A sharded checkpoint with a tokenizer, and rows.jsonl beside it."""
    folder = tmp_path / "intents"
    tiny_bert().save_pretrained(folder, max_shard_size="8KB")
    save_tokenizer(folder)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    return folder


def refusal(here: InProcess, root: Path, source: Path | str, **changes: Any) -> str:
    """What an import says, which leaves the folder as it was."""
    request = {"source": str(source), "into": root / "made", "data": root / "rows.jsonl", **changes}
    before = sorted(path for path in root.rglob("*") if "store" not in path.parts)
    with pytest.raises(InputError) as told:
        import_model(here, ImportRequest(**request))
    assert sorted(path for path in root.rglob("*") if "store" not in path.parts) == before
    return str(told.value)


def test_half_a_checkpoint_is_told_with_its_shard(here: InProcess, tmp_path: Path, checkpoint: Path) -> None:
    shard = next(checkpoint.glob("*-00001-*"))
    shard.write_bytes(shard.read_bytes()[:-10])
    text = refusal(here, tmp_path, checkpoint)
    assert f"{shard.name}: is not a whole safetensors file" in text


def test_an_index_that_names_a_missing_shard_is_told(here: InProcess, tmp_path: Path, checkpoint: Path) -> None:
    shard = next(checkpoint.glob("*-00002-*"))
    shard.unlink()
    text = refusal(here, tmp_path, checkpoint)
    assert "model.safetensors.index.json: weight_map: names" in text
    assert shard.name in text
    assert "download the missing shard" in text


def test_a_tokenizer_that_is_not_there_is_told(here: InProcess, tmp_path: Path, checkpoint: Path) -> None:
    for path in checkpoint.glob("*token*"):
        path.unlink()
    text = refusal(here, tmp_path, checkpoint)
    assert text.startswith("intents: holds ")
    assert "--processor DIR" in text


def test_a_label_column_with_holes_is_told_with_its_rows(here: InProcess, tmp_path: Path, checkpoint: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"text": "now", "label": None}])
    text = refusal(here, tmp_path, checkpoint)
    assert text == "rows.jsonl: label is missing in 1 of 41 rows (row 41); fill them, or remove those rows"


def test_images_that_are_none_are_told(here: InProcess, tmp_path: Path) -> None:
    torch.jit.script(nn.Conv2d(3, 2, 1)).save(tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat.png").write_text("<html>not found</html>")
    text = refusal(here, tmp_path, tmp_path / "net.pt", data=tmp_path / "images")
    assert "cat.png" in text
    assert ";" in text, "the remedy"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def test_an_archive_with_code_in_it_is_told_and_the_code_is_not_run(here: InProcess, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    net = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 3), (torch.ones(2, 4),)), net)
    with zipfile.ZipFile(net, "a") as archive:
        archive.writestr("net/data/more.pkl", pickle.dumps(Trap(tmp_path / "trapped")))
    text = refusal(here, tmp_path, net, data=None, synthetic=40)
    assert "net.pt2: net/data/more.pkl: is a pickle that imports" in text


def test_a_model_without_any_tensor_output_is_told(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return {'words': 'none'}\n"
        "def build():\n    return Net()\n"
    )
    np.savez(tmp_path / "rows.npz", x=np.zeros((40, 4)))
    text = refusal(here, tmp_path, f"{tmp_path}/net/model.py:build", data=tmp_path / "rows.npz")
    assert "tensor" in text
    assert ";" in text, "the remedy"
