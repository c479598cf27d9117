"""A classifier in the shape of ResNet-50: bottleneck blocks, 3-4-6-3 of them, an eighth as wide.

After He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016), with the stride in the middle
convolution of a block, as torchvision has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIGNS = (
    "stop",
    "give_way",
    "no_entry",
    "speed_30",
    "speed_50",
    "speed_80",
    "no_overtaking",
    "turn_left",
    "turn_right",
    "priority",
    "danger",
    "parking",
)
"""The classes, in the order of the logits."""
SIDE = 64
"""Pixels of the picture's sides."""
STEM, EXPANSION = 8, 4
"""Channels of the first convolution, 64 in ResNet-50; and the outer channels of a block by its inner ones."""
BLOCKS = (3, 4, 6, 3)


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outside)
    )


class Bottleneck(nn.Module):
    """Narrow, convolve, widen; and add what came in, projected where its shape differs."""

    def __init__(self, inside: int, inner: int, stride: int) -> None:
        super().__init__()
        outside = inner * EXPANSION
        self.narrow = _convolution(inside, inner, 1)
        self.middle = _convolution(inner, inner, 3, stride)
        self.widen = _convolution(inner, outside, 1)
        self.project = _convolution(inside, outside, 1, stride) if stride > 1 or inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inside, rows, columns] to [batch, 4 * inner, rows / stride, columns / stride]."""
        found = self.widen(torch.relu(self.middle(torch.relu(self.narrow(x)))))
        return torch.relu(found + self.project(x))


class ResNet(nn.Module):
    """Pictures to the logits of twelve road signs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, STEM, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        blocks, inside = [], STEM
        for stage, count in enumerate(BLOCKS):
            inner = STEM << stage
            for number in range(count):
                blocks.append(Bottleneck(inside, inner, 2 if stage and not number else 1))
                inside = inner * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inside, len(SIGNS))

    def forward(self, image: Tensor) -> Tensor:
        """Classify pictures.

        Args:
            image: float32 [batch, 3, 64, 64], red, green and blue, each in [0, 1].

        Returns:
            ``logits``, float32 [batch, 12].
        """
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))  # type: ignore[no-any-return]  # nn.Module returns Any


def build() -> nn.Module:
    """Return the classifier with the sizes of the shipped weights, untrained."""
    return ResNet()
