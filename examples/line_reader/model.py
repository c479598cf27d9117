"""CRNN that reads a line of digits and signs: convolutions, two directions of an LSTM, symbols for CTC.

After Shi, Bai and Yao, "An End-to-End Trainable Neural Network for Image-based Sequence Recognition" (2017), in a
small size. This file and torch are all that an export needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALPHABET = "0123456789+-=x"
"""The symbols; the number of each in the output is one more than its place here, since 0 is CTC's blank."""
HEIGHT = 24
STRIDE = 4
"""Columns of the picture that become one frame."""


def _block(inside: int, outside: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class LineReader(nn.Module):
    """Pictures of lines to the logits of the symbols of each frame."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, 16, (1, 1)),
            _block(16, 32, (2, 2)),
            _block(32, 48, (2, 2)),
            _block(48, 64, (2, 1)),
        )
        self.project = nn.Linear(64 * HEIGHT // 8, width)
        self.context = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, len(ALPHABET) + 1)

    def forward(self, line: Tensor) -> Tensor:
        """Read lines.

        Args:
            line: float32 [batch, 1, 24, width], 0 is paper and 1 is ink; width is a multiple of 4.

        Returns:
            ``symbols``, float32 [batch, width / 4, 15], logits; 0 is the blank.
        """
        # One transposition of three axes: with permute(0, 3, 1, 2).flatten(2), which is the same, ONNX Runtime 1.31
        # crashes when it loads the FP16 graph.
        x = self.features(line).flatten(1, 2).transpose(1, 2)
        x, _ = self.context(torch.relu(self.project(x)))
        return self.head(x)  # type: ignore[no-any-return]  # nn.Module returns Any


def build() -> nn.Module:
    """Return the reader with the sizes of the shipped weights, untrained."""
    return LineReader()
