"""Says what is heard in a street or a house, from the energies of a sound above the floor of its background noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SOUNDS = ("nothing", "smoke_alarm", "siren", "doorbell", "breaking_glass", "knocking")
"""The classes, in the order of the logits."""
BANDS, WIDTH = 24, 48
"""Bands of the energies, and channels of the convolutions."""
RISE, FALL = 0.03, 0.3
"""Shares of the way that the floor goes in one frame to an energy above it, and to one below it."""


def noise_floor(energies: Tensor, rise: float, fall: float) -> Tensor:
    """Follow energies [batch, bands, frames] slowly up and quickly down, from the first frame on; the same shape.

    How far each frame moves the floor depends on where the floor is, so this is no convolution and no product. In ONNX
    it would be a loop over the frames. It is one node there, which ``plugins/noise_floor.c`` computes.
    """
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(  # type: ignore[no-any-return]  # torch types it by its many forms
            "enginegate.examples::NoiseFloor",
            (energies,),
            {"rise": rise, "fall": fall},
            dtype=energies.dtype,
            shape=energies.shape,
            version=1,
        )
    level = energies[..., 0]
    levels = []
    for energy in energies.unbind(-1):
        apart = energy - level
        level = level + torch.where(apart > 0, rise, fall) * apart
        levels.append(level)
    return torch.stack(levels, -1)


class SoundClassifier(nn.Module):
    """Energies to the logits of six sounds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(BANDS, WIDTH, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(WIDTH, WIDTH, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(WIDTH, WIDTH, 5, stride=2, padding=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * WIDTH, len(SOUNDS))

    def forward(self, energies: Tensor) -> Tensor:
        """Classify sounds.

        Args:
            energies: float32 [batch, 24, frames], natural logarithms of what each band holds in each 16 ms.

        Returns:
            ``logits``, float32 [batch, 6].
        """
        found = self.net(energies - noise_floor(energies, RISE, FALL))
        return self.head(torch.cat([found.mean(-1), found.amax(-1)], -1))  # type: ignore[no-any-return]  # nn.Module returns Any


def build() -> nn.Module:
    """Return the classifier with the sizes of the shipped weights, untrained."""
    return SoundClassifier()
