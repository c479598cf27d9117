from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.errors import InputError
from tasks.sources.state_dict import load_weights

if TYPE_CHECKING:
    from pathlib import Path


class Embeddings(nn.Module):
    """As Hugging Face's: what once was saved is no longer part of the state dict."""

    _keys_to_ignore_on_load_unexpected = (r"^pooler\.",)

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(2, 2)
        self.register_buffer("position_ids", torch.arange(4), persistent=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()


def saved(folder: Path, **more: torch.Tensor) -> Path:
    path = folder / "weights.safetensors"
    save_file({**Model().state_dict(), **more}, path)
    return path


@pytest.mark.parametrize("name", ["embeddings.position_ids", "embeddings.pooler.weight"])
def test_a_tensor_that_the_module_knows_and_does_not_load_is_left_out(tmp_path: Path, name: str) -> None:
    load_weights(Model(), saved(tmp_path, **{name: torch.zeros(3)}))


@pytest.mark.parametrize("name", ["position_ids", "pooler.weight", "embeddings.words.scale", "other.position_ids"])
def test_a_tensor_that_the_module_does_not_know_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"unexpected: {name} \[3\]"):
        load_weights(Model(), saved(tmp_path, **{name: torch.zeros(3)}))


def test_weights_in_bfloat16_are_taken_as_the_modules_own_type(tmp_path: Path) -> None:
    model, half = Model(), torch.full((2, 2), 1.5, dtype=torch.bfloat16)
    load_weights(model, saved(tmp_path, **{"embeddings.words.weight": half}))
    weight = model.embeddings.words.weight
    assert weight.dtype is torch.float32
    assert (weight == 1.5).all()
