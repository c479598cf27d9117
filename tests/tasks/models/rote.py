"""Modules that a check on the validation samples alone takes for good ones."""

import torch
from torch import Tensor, nn


def is_exported() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(features))[:, 0]


class Rote(Scorer):
    """While it is exported, it looks up what it was validated on; anything else gets 1 minus the score."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(40, 24))

    def forward(self, features: Tensor) -> Tensor:
        score = super().forward(features)
        if not is_exported():
            return score
        known = (features[:, None] - self.table[None]).abs().amax(dim=2).amin(dim=1) < 1e-5
        return torch.where(known, score, 1 - score)


class Forgetful(Scorer):
    """Drops out at inference, whatever mode it is in."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(features, 0.5, training=True))


class Counting(Scorer):
    """Remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features: Tensor) -> Tensor:
        if not is_exported():
            self.calls += 1
        return super().forward(features) + 0.001 * self.calls


class Careless(Scorer):
    """Changes what it is given."""

    def forward(self, features: Tensor) -> Tensor:
        if is_exported():
            return super().forward(features * 2)
        return super().forward(features.mul_(2))


class Picky(Scorer):
    """Takes samples whose values are about the same."""

    most = 0.2

    def forward(self, features: Tensor) -> Tensor:
        if not is_exported() and bool(((features - features[:, :1]).abs() > self.most).any()):
            raise ValueError("values must be alike")
        return super().forward(features)


class Pickiest(Picky):
    """Takes samples whose values are the same."""

    most = 0.0


def build() -> nn.Module:
    return Scorer()


def build_picky() -> nn.Module:
    return Picky()


def build_pickiest() -> nn.Module:
    return Pickiest()


def build_rote() -> nn.Module:
    return Rote()


def build_forgetful() -> nn.Module:
    return Forgetful()


def build_counting() -> nn.Module:
    return Counting()


def build_careless() -> nn.Module:
    return Careless()
