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


class Narrow(Perceptron):
    """Takes no more than five samples at once."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        if len(features) > 5:
            raise ValueError(f"{len(features)} are too many")
        return super().forward(features)


def build_narrow() -> nn.Module:
    return Narrow()


class Cast(Perceptron):
    """Runs in bfloat16 by name, though its weights do not."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return super().forward(features.to(torch.bfloat16))


def build_cast() -> nn.Module:
    return Cast().bfloat16()


class Brief(Perceptron):
    """Gives bfloat16."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: output.to(torch.bfloat16) for name, output in super().forward(features).items()}


def build_brief() -> nn.Module:
    return Brief()
