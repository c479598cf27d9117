"""A graph of the custom operation that the example `alarm_sounds` ships, and what it computes, by numpy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

LIBRARY = Path(__file__).resolve().parents[2] / "examples" / "alarm_sounds" / "plugins" / "libnoise_floor.so"
RISE, FALL = 0.25, 0.5
FLOOR = f"score = enginegate.examples.NoiseFloor<rise: float = {RISE}, fall: float = {FALL}>(features)"


def write_floor(folder: Path, body: str = FLOOR, values: str = "", extents: str = "batch,4") -> Path:
    """Write `model.onnx`, float32 of these extents to `body` of it, with the library beside it.

    `body` computes the floors unless given. Exporters say the types of inner values, and `values` does.
    """
    (folder / "plugins").mkdir(parents=True)
    shutil.copyfile(LIBRARY, folder / "plugins" / LIBRARY.name)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "enginegate.examples" : 1]>'
        f" floor (float[{extents}] features) => (float[{extents}] score)"
        f" <{values}> {{ {body} }}"
    )
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def noise_floor(energies: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The floor along the last axis: it begins at the first energy, and goes a share of the way to each that comes."""
    level, levels = energies[..., 0], []
    for energy in np.moveaxis(energies, -1, 0):
        level = level + np.where(energy > level, np.float32(RISE), np.float32(FALL)) * (energy - level)
        levels.append(level)
    return np.stack(levels, -1)
