"""What a parent asks of the child that measures a calibration set; nothing here imports what measures."""

from __future__ import annotations

from pathlib import Path

from tasks.declared import Dim, Frozen, InputSpec
from tasks.specs import OutputDeclaration


class DataSet(Frozen):
    """A data set laid out on this host: folders of shards alike in number and order."""

    inputs: Path
    annotations: Path
    samples: int


class MeasureRequest(Frozen):
    """What to compare. `validation` is the folder of inputs that no sample of the set may be in.

    `onnx` is the exported reference; without one, neither ranges nor scores are compared. `strata` are names of
    slices that the set has.
    """

    calibration: DataSet
    production: DataSet
    validation: Path | None
    inputs: dict[str, InputSpec]
    batch_dim: str
    batch: Dim
    outputs: dict[str, OutputDeclaration]
    onnx: Path | None
    strata: tuple[str, ...]
