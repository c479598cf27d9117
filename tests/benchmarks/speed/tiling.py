"""Seeded weights of realistic scale that compress to almost nothing, since each repeats one block of numbers.

`make_data.py` copies this file into every model directory, because a module sees its own directory only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PERIOD = 4093
"""Values in the block: a prime, so that the rows of a matrix differ whatever its width."""

SEED = 20261121
OFFSET_STEP = 1201
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORM_SPREAD = 0.02


def fill(module: nn.Module, deviation: float | None = None) -> nn.Module:
    """Fill every parameter of `module` from the block, and return the module.

    Each parameter starts elsewhere in the block: layers that were equal would be merged into one, and their weights
    would stay in the GPU's cache. Norms get 1 and 0 with a spread of 0.02, so that no simplifier takes them out; but
    batch norms get exactly 1, since they are folded into convolutions, whose weights would no longer repeat.

    Args:
        module: is changed in place.
        deviation: of the weights of all layers; None for Kaiming's, by each layer's inputs.
    """
    block = torch.randn(PERIOD, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    number = 0
    with torch.no_grad():
        for layer in module.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                values = _tile(block, number * OFFSET_STEP, parameter)
                number += 1
                if isinstance(layer, BATCH_NORMS) and name == "weight":
                    parameter.fill_(1.0)
                elif isinstance(layer, (*BATCH_NORMS, nn.LayerNorm)):
                    parameter.copy_(NORM_SPREAD * values + (1.0 if name == "weight" else 0.0))
                else:
                    parameter.copy_(values * (_kaiming(layer) if deviation is None else deviation))
    return module


def _tile(block: Tensor, offset: int, like: Tensor) -> Tensor:
    repeats = -(-like.numel() // PERIOD)
    return block.roll(-offset).repeat(repeats)[: like.numel()].reshape(like.shape)


def _kaiming(layer: nn.Module) -> float:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return math.sqrt((2.0 if isinstance(layer, CONVOLUTIONS) else 1.0) / weight[0].numel())
