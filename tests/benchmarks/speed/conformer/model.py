"""A Conformer encoder (Gulati et al. 2020) of 8 blocks, 144 wide, without relative positions."""

from __future__ import annotations

import torch
from tiling import fill
from torch import Tensor, nn

WIDTH = 144
HEADS = 4
BLOCKS = 8
KERNEL = 31
MELS = 80


class FeedForward(nn.Sequential):
    """LayerNorm and two linear layers around SiLU."""

    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))


class Attention(nn.Module):
    """LayerNorm and self-attention over all frames."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, 144] to the same shape."""
        x = self.norm(x)
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution, batch norm, SiLU, pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.expand = nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2, groups=WIDTH)
        self.batch_norm = nn.BatchNorm1d(WIDTH)
        self.contract = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, 144] to the same shape."""
        x = nn.functional.glu(self.expand(self.norm(x).transpose(1, 2)), dim=1)
        x = nn.functional.silu(self.batch_norm(self.depthwise(x)))
        return self.contract(x).transpose(1, 2)


class Block(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = FeedForward()
        self.attention = Attention()
        self.convolution = Convolution()
        self.second = FeedForward()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, 144] to the same shape."""
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        return self.norm(x + 0.5 * self.second(x))


class Conformer(nn.Module):
    """Subsampling by 4 in two strided convolutions, then the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.subsample = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2, padding=1), nn.ReLU()
        )
        self.project = nn.Linear(WIDTH * (MELS // 4), WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))

    def forward(self, mels: Tensor) -> Tensor:
        """Return states [batch, 75, 144] of log-mel frames [batch, 300, 80]."""
        x = self.subsample(torch.unsqueeze(mels, 1))
        return self.blocks(self.project(x.transpose(1, 2).flatten(2)))


def build() -> nn.Module:
    """Return the model with seeded weights."""
    return fill(Conformer())
