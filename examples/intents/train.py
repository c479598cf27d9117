"""Train the intents classifier: ``python -m examples.intents.train`` from the root of the checkout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from examples import making
from examples.intents import messages, model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of a batch."""
    logits = network(batch["input_ids"], batch["attention_mask"]).logits
    return nn.functional.cross_entropy(logits, batch["label"], label_smoothing=0.05)


def accuracy(network: nn.Module, shards: Sequence[making.Arrays]) -> float:
    """Share of the messages of shards whose intent is found."""
    right = []
    with torch.inference_mode():
        for shard in shards:
            ids, mask = (torch.from_numpy(shard[name]) for name in ("input_ids", "attention_mask"))
            right.append(network(ids, mask).logits.argmax(-1).numpy() == shard["label"])
    return float(np.concatenate(right).mean())


EXAMPLE = making.Example(
    name="intents",
    calibration="intents",
    source=(
        "Messages to a help desk from the templates of examples/intents/messages.py, seeded; disjoint from the"
        " training and validation messages."
    ),
    inputs=("input_ids", "attention_mask"),
    draw=messages.draw,
    build=model.build,
    loss=loss,
    quality=accuracy,
    minimum=0.95,
    sizes=(1000, 256, 8000),
    steps=1000,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
