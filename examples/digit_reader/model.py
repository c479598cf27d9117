"""Residual network that reads a digit in a grey picture of 32 by 32 pixels.

After He and others, "Deep Residual Learning for Image Recognition" (2016), as small as the task allows. This file and
torch are all that an export needs. Batch norms follow convolutions directly, so that every converter can fold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

CLASSES = 10
"""The digits; the class is the digit's value."""

SIZE = 32
"""Pixels of a picture's side."""


@dataclass(frozen=True)
class ReaderConfig:
    """Channels of the first convolution and of each residual block. The defaults are those of the shipped weights."""

    channels: tuple[int, ...] = (16, 32, 64, 96)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, the first of stride 2, added to a projection of the input; ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.project = nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False)
        self.project_norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels in, height, width] to [batch, channels out, height / 2, width / 2]."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.project_norm(self.project(x)))


class DigitReader(nn.Module):
    """A convolution, residual blocks that halve the picture, the mean over what is left of it, a linear head."""

    def __init__(self, config: ReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ReaderConfig()
        channels = self.config.channels
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList(ResidualBlock(wide_in, wide_out) for wide_in, wide_out in pairwise(channels))
        # A window and not a mean over axes, since the dynamo exporter cannot bring ReduceMean to opset 17.
        self.pool = nn.AvgPool2d(SIZE >> len(self.blocks))
        self.head = nn.Linear(channels[-1], CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Read pictures.

        Args:
            image: float32 [batch, 1, 32, 32], luminance from 0 (black) to 1 (white), dark ink on lighter paper.

        Returns:
            Logits of the digits 0 to 9, float32 [batch, 10].
        """
        x = torch.relu(self.stem_norm(self.stem(image)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]  # nn.Module returns Any


def build() -> nn.Module:
    """Return the reader with the sizes of the shipped weights, untrained."""
    return DigitReader()
