"""Model directories of the zoo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import yaml

from tests.sets import describe
from tests.zoo.table import BATCH, SAMPLES, Animal

if TYPE_CHECKING:
    from collections.abc import Sequence

PRECISIONS = ("fp16", "int8")
CALIBRATED = 64


def write_animal(animal: Animal, folder: Path, precisions: Sequence[str] = PRECISIONS) -> Path:
    """Write model.yaml, model.py, validation data and a calibration set; returns the folder."""
    calibration = folder / "calibration"
    calibration.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("models.py"), folder / "model.py")
    generator = np.random.default_rng(crc32(animal.build.encode()))
    arrays = animal.data(generator, SAMPLES + CALIBRATED)
    np.savez(folder / "validation.npz", **{name: array[:SAMPLES] for name, array in arrays.items()})
    np.savez(calibration / "set.npz", **{name: array[SAMPLES:] for name, array in arrays.items()})
    inputs = {name: dict(spec) for name, spec in animal.inputs.items()}
    describe(calibration, {name: {"dtype": spec["dtype"], "shape": spec["shape"]} for name, spec in inputs.items()})
    document: dict[str, Any] = {
        "name": animal.name,
        "source": f"model.py:{animal.build}",
        "inputs": inputs,
        "dims": {"batch": BATCH, **animal.dims},
        "outputs": {name: dict(spec) for name, spec in animal.outputs.items()},
        "targets": ["cpu"],
        "precisions": list(precisions),
        "calibration": {"set": "calibration", "method": "minmax"},
        "validation": {"data": "validation.npz"},
    }
    if animal.export:
        document["export"] = dict(animal.export)
    (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder
