"""Train the Whisper encoder: ``python -m examples.whisper_encoder.train`` from the root of the checkout.

What is trained is that clips of one word lie close together. Recognition of speech would take a decoder and speech.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from examples import making
from examples.whisper_encoder import model, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TEMPERATURE = 0.1


def embed(network: nn.Module, features: Tensor) -> Tensor:
    """Return the mean of a clip's positions at length 1, [batch, 96]."""
    return nn.functional.normalize(network(features)["last_hidden_state"].mean(1), dim=-1)


def loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The supervised contrastive loss of Khosla and others (2020): clips of one word attract each other."""
    points, word = embed(network, batch["input_features"]), batch["_word"]
    itself = torch.eye(len(word), dtype=torch.bool)
    near = (points @ points.T / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(-1)
    same = (word[:, None] == word[None]) & ~itself
    each = (near * same).sum(-1) / same.sum(-1).clamp(min=1)
    return -each.mean()


def neighbours_right(network: nn.Module, shards: Sequence[making.Arrays]) -> float:
    """Share of the clips of shards whose nearest neighbour, of all other clips, says the same word."""
    with torch.inference_mode():
        points = torch.cat([embed(network, torch.from_numpy(shard["input_features"])) for shard in shards])
    word = np.concatenate([shard["_word"] for shard in shards])
    nearest = (points @ points.T).fill_diagonal_(-1).argmax(-1).numpy()
    return float((word == word[nearest]).mean())


EXAMPLE = making.Example(
    name="whisper_encoder",
    calibration="words",
    source=(
        "Words as log-mel frames by the seeded generator examples/whisper_encoder/words.py; disjoint from the training"
        " and validation clips."
    ),
    inputs=("input_features",),
    draw=words.draw,
    build=model.build,
    loss=loss,
    quality=neighbours_right,
    minimum=0.9,
    sizes=(640, 96, 4000),
    steps=400,
    batch=64,
    learning_rate=1e-3,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
