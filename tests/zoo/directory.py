"""Model directories of the zoo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import yaml

from tests.sets import describe
from tests.zoo.planted import LABEL
from tests.zoo.table import BATCH, PLANTED_SAMPLES, SAMPLES, Animal

if TYPE_CHECKING:
    from collections.abc import Sequence

PRECISIONS = ("fp16", "int8")
CALIBRATED = 64


def write_animal(animal: Animal, folder: Path, precisions: Sequence[str] = PRECISIONS) -> Path:
    """Write model.yaml, model.py, validation data and a calibration set; returns the folder."""
    calibration = folder / "calibration"
    calibration.mkdir(parents=True)
    if not animal.source:
        shutil.copy(Path(__file__).with_name("models.py"), folder / "model.py")
    generator = np.random.default_rng(crc32(animal.build.encode()))
    samples = SAMPLES if animal.head is None else PLANTED_SAMPLES
    arrays = animal.data(generator, samples + CALIBRATED)
    arrays.pop(LABEL, None)
    np.savez(folder / "validation.npz", **{name: array[:samples] for name, array in arrays.items()})
    np.savez(calibration / "set.npz", **{name: array[samples:] for name, array in arrays.items()})
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
    document |= _written(animal, folder, generator)
    if animal.export:
        document["export"] = dict(animal.export)
    (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder


def _written(animal: Animal, folder: Path, generator: np.random.Generator) -> dict[str, Any]:
    """Write the weights, and the module where its source is no callable; returns their keys of model.yaml."""
    if not animal.source and animal.head is None:
        return {}
    from tests.zoo.fitted import fitted, write_weights  # noqa: PLC0415 - torch takes seconds
    from tests.zoo.sources import write_source  # noqa: PLC0415 - as above

    module = fitted(animal, generator)
    keys: dict[str, Any] = {"source": write_source(animal, folder, module)} if animal.source else {}
    if animal.source in {"", "package"}:
        keys["weights"] = write_weights(module, folder).name
    return keys
