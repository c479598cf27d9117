"""A detector in the manner of YOLO: one pass of convolutions, a box, an objectness and classes for each cell of a grid.

After Redmon and others, "You Only Look Once" (2016), without anchors, as the later ones of its name are. What the
engine gives is a row for each cell. Which rows are duplicates depends on the data, and is decided outside of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("disc", "square", "triangle")
SIDE, STRIDE = 64, 8
"""Pixels of the picture's sides and of a cell's."""


def _block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_block(width, width // 2), _block(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, width, rows, columns] to the same shape."""
        return x + self.net(x)  # type: ignore[no-any-return]  # nn.Module returns Any


class Detector(nn.Module):
    """Pictures to a box, a score and a class for each of 8 x 8 cells."""

    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _block(3, 16, 2),
            _block(16, 32, 2),
            Residual(32),
            _block(32, 64, 2),
            Residual(64),
            Residual(64),
            Residual(64),
        )
        self.head = nn.Conv2d(64, 4 + 1 + len(CLASSES), 1)
        steps = torch.arange(SIDE // STRIDE) * float(STRIDE) + STRIDE / 2
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows], -1).flatten(0, 1)[None], persistent=False)

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners [batch, 64, 4] in pixels, and logits of objectness [batch, 64] and of classes [batch, 64, 3]."""
        found = self.head(self.net(image)).flatten(2).transpose(1, 2)
        # A distance is at most the picture's side: nothing that FP16 could not hold comes out of a cell without object.
        distances = torch.sigmoid(found[:, :, :4]) * SIDE
        corners = torch.cat([self.centres - distances[:, :, :2], self.centres + distances[:, :, 2:]], -1)
        return corners, found[:, :, 4], found[:, :, 5:]

    def forward(self, image: Tensor) -> Tensor:
        """Find objects.

        Args:
            image: float32 [batch, 3, 64, 64], red, green and blue, each in [0, 1].

        Returns:
            ``boxes``, float32 [batch, 64, 6]: left, top, right and bottom in pixels, score in [0, 1], class.
        """
        corners, objectness, classes = self.raw(image)
        chances = torch.softmax(classes, -1)
        score = torch.sigmoid(objectness) * chances.amax(-1)
        number = chances.argmax(-1).to(corners.dtype)
        return torch.cat([corners, score[:, :, None], number[:, :, None]], -1)


def build() -> nn.Module:
    """Return the detector with the sizes of the shipped weights, untrained."""
    return Detector()
