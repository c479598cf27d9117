"""Train the detector: ``python -m examples.detector.train`` from the root of the checkout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from examples import making
from examples.detector import boxes, model, shapes
from validation.boxes import match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CELLS = model.SIDE // model.STRIDE


def assign(label: Tensor) -> tuple[Tensor, Tensor]:
    """Give each object [batch, objects, 5] to the cell of its centre: [batch, 64] has the object's row, and whether."""
    batch, objects, _ = label.shape
    centre = ((label[:, :, :2] + label[:, :, 2:4]) / 2 / model.STRIDE).long().clamp(0, CELLS - 1)
    cell = torch.where(label[:, :, 4] >= 0, centre[:, :, 1] * CELLS + centre[:, :, 0], CELLS * CELLS)
    row = torch.zeros(batch, CELLS * CELLS + 1, dtype=torch.long)
    row.scatter_(1, cell, torch.arange(objects).expand(batch, -1))
    has = torch.zeros(batch, CELLS * CELLS + 1, dtype=torch.bool).scatter_(1, cell, value=True)
    return row[:, :-1], has[:, :-1]


def loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Objectness of all cells; of those with an object, the distance of the corners and the class."""
    corners, objectness, classes = network.raw(batch["image"])
    row, has = assign(batch["label"])
    wanted = batch["label"].gather(1, row[:, :, None].expand(-1, -1, 5))
    found = nn.functional.binary_cross_entropy_with_logits(
        objectness, has.float(), pos_weight=torch.tensor(3.0), reduction="mean"
    )
    placed = nn.functional.smooth_l1_loss(corners[has], wanted[has][:, :4], beta=1.0)
    named = nn.functional.cross_entropy(classes[has], wanted[has][:, 4].long())
    return 4 * found + 0.3 * placed + named


def mean_f1(network: nn.Module, shards: Sequence[making.Arrays]) -> float:
    """Mean F1 of the pictures of shards, after the suppression of duplicates, at an overlap of 0.5."""
    scores = []
    with torch.inference_mode():
        for shard in shards:
            rows = network(torch.from_numpy(shard["image"])).numpy()
            for found, label in zip(map(boxes.suppress, rows), shard["label"], strict=True):
                right = np.insert(label[label[:, 4] >= 0], boxes.SCORE, 1.0, axis=1)
                hits = (match(found.astype(np.float64), right.astype(np.float64)) > 0).sum()
                scores.append(2 * hits / (len(found) + len(right)))
    return float(np.mean(scores))


EXAMPLE = making.Example(
    name="detector",
    calibration="shapes",
    source=(
        "Pictures of discs, squares and triangles by the seeded generator examples/detector/shapes.py; disjoint from"
        " the training and validation pictures."
    ),
    inputs=("image",),
    draw=shapes.draw,
    build=model.build,
    loss=loss,
    quality=mean_f1,
    minimum=0.85,
    sizes=(800, 128, 5000),
    steps=1200,
    batch=32,
    learning_rate=3e-3,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
