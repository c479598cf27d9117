"""Train the line reader: ``python -m examples.line_reader.train`` from the root of the checkout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import nn

from examples import making
from examples.line_reader import lines, model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """CTC's loss of a batch, a symbol."""
    chances = network(batch["line"]).log_softmax(-1).transpose(0, 1)
    frames = torch.full((chances.shape[1],), chances.shape[0])
    lengths = (batch["label"] >= 0).sum(1)
    return nn.functional.ctc_loss(chances, batch["label"].clamp(min=0), frames, lengths, zero_infinity=True)


def greedy_text(symbols: Sequence[int]) -> list[int]:
    """Return what a line says by the best symbol of each frame: repeats once, without blanks."""
    return [now for before, now in zip([0, *symbols], symbols, strict=False) if now not in {before, 0}]


def lines_right(network: nn.Module, shards: Sequence[making.Arrays]) -> float:
    """Share of the lines of shards that are read without a fault."""
    right = total = 0
    with torch.inference_mode():
        for shard in shards:
            read = network(torch.from_numpy(shard["line"])).argmax(-1).tolist()
            wanted = [[symbol for symbol in label if symbol > 0] for label in shard["label"].tolist()]
            right += sum(greedy_text(found) == text for found, text in zip(read, wanted, strict=True))
            total += len(wanted)
    return right / total


EXAMPLE = making.Example(
    name="line_reader",
    calibration="lines",
    source=(
        "Lines with sums in matplotlib's typefaces, distorted by the seeded generator examples/line_reader/lines.py;"
        " disjoint from the training and validation lines."
    ),
    inputs=("line",),
    draw=lines.draw,
    build=model.build,
    loss=loss,
    quality=lines_right,
    minimum=0.9,
    sizes=(800, 192, 6000),
    steps=700,
    batch=32,
    learning_rate=4e-3,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
