"""Sources that end badly, one function each."""

import os
import sys

import torch
from torch import Tensor, nn


class Doubler(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[0] > 5:
            raise ValueError("at most five rows")
        return features * 2


class NotANumber(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return torch.log(features.sum(dim=1))


def raises() -> nn.Module:
    raise ValueError("no such checkpoint")


def leaves() -> nn.Module:
    sys.exit(3)


def dies() -> nn.Module:
    os._exit(7)


def build_text() -> str:
    return "not a module"


def build_doubler() -> nn.Module:
    return Doubler()


def build_not_a_number() -> nn.Module:
    return NotANumber()
