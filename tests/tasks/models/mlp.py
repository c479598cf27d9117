"""A perceptron with two heads, and variants that a careless user might hand in."""

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 48)
        self.second = nn.Linear(48, 32)
        self.score = nn.Linear(32, 1)
        self.traits = nn.Linear(32, 3)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.second(torch.relu(self.first(features))))
        return {"traits": torch.sigmoid(self.traits(hidden)), "score": torch.sigmoid(self.score(hidden))[:, 0]}


def build() -> nn.Module:
    return Perceptron()


def build_talkative() -> nn.Module:
    for number in range(100_000):
        print("talking to myself", number)  # noqa: T201 - the point of this one
    return Perceptron()
