"""Fits the last layer of a random net, so that its classes have margins as those of trained models have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tests.zoo import models
from tests.zoo.planted import LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.random import Generator

    from tests.zoo.table import Animal

RIDGE = 1e-3
"""Of the features' mean variance."""
SAMPLES = 1000


def fitted(animal: Animal, generator: Generator) -> nn.Module:
    """The module of a model, its head fitted to data like its own where it has one."""
    if not animal.build:
        return nn.Identity()
    module: nn.Module = getattr(models, animal.build)().eval()
    if animal.head is not None:
        arrays = animal.data(generator, SAMPLES)
        label = arrays.pop(LABEL)
        fit_head(module, animal.head, arrays, label, animal.scale)
    return module


def write_weights(module: nn.Module, folder: Path) -> Path:
    """Write the weights as model.yaml names them."""
    path = folder / "weights.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


def fit_head(module: nn.Module, head: str, inputs: Mapping[str, np.ndarray], label: np.ndarray, scale: float) -> float:
    """Solve a ridge regression of `label` on what the layer `head` (linear, or a 1 x 1 convolution) is handed.

    `label` holds classes, which are fitted as one of all times `scale`, or floats `[..., outputs]`, which are fitted as
    they are. Returns the share of classes that are then right, or of the variance that is explained.
    """
    layer = module.get_submodule(head)
    assert isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
    with torch.no_grad():
        seen = _features(module, layer, inputs)
        width, outputs = seen.shape[-1], layer.weight.shape[0]
        of_class = label.dtype.kind != "f"
        rows = label.reshape(-1, 1 if of_class else outputs)
        known = rows[:, 0] >= 0 if of_class else np.full(len(rows), fill_value=True)
        x, rows = seen.reshape(-1, width)[known], rows[known]
        wanted = scale * np.eye(outputs)[rows[:, 0]] if of_class else rows
        moved = layer.bias is not None
        mean, offset = moved * x.mean(0), moved * wanted.mean(0)
        centred = x - mean
        spread = centred.T @ centred
        ridge = RIDGE * np.trace(spread) / width * np.eye(width)
        weight = np.linalg.solve(spread + ridge, centred.T @ (wanted - offset))
        found = centred @ weight + offset
        layer.weight.copy_(torch.from_numpy(weight.T.reshape(layer.weight.shape)))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(offset - mean @ weight))
    if of_class:
        return float((found.argmax(1) == rows[:, 0]).mean())
    return float(1 - (found - wanted).var() / wanted.var())


def _features(module: nn.Module, layer: nn.Module, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the layer is handed, the features on the last axis."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _layer, handed: seen.append(handed[0]))
    module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    hook.remove()
    (handed,) = seen
    features = handed if isinstance(layer, nn.Linear) else handed.movedim(1, -1)
    return features.double().numpy()
