"""A perceptron of residual blocks; its weights make one layer impossible to quantize (see the directory's writer)."""

import torch
from torch import Tensor, nn

WIDTH, INNER, BLOCKS = 48, 64, 5


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.relu(self.up(hidden)))


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.head(self.blocks(self.first(features))))[:, 0]


def build() -> nn.Module:
    return Scorer()
