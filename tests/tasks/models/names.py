"""Modules that return whole numbers, or true and false: the class itself, a decision, a key."""

import torch
from torch import Tensor, nn


class Names(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return features.argmax(dim=1), features > 0, (features[:, :2] * 100).to(torch.int64) + 2**40


class Classes(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.reshape(-1, 4, 2, 3)


def build() -> nn.Module:
    return Names()


def build_classes() -> nn.Module:
    return Classes()
