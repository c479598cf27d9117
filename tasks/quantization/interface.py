"""What every converter is asked and answers, and the calibration data in the shape that quantizers read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.declared import Frozen
from tasks.samples.feeds import split_batches
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.specs import CalibrationMethod, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Quantizers hold every tensor that they calibrate, of one batch, at once. One sample would do, but makes
# ModelOpt take each layer for a matrix-vector product, which it leaves in float.
CALIBRATION_BATCH = 4
PERCENTILE = 99.999
HISTOGRAM_BINS = 2048
QUANTIZED_BINS = 128

# Nodes with values beyond this stay in FP32. FP16 ends at 65504. AutoCast's own limit of 512 would leave every softmax
# behind an additive mask in FP32, and so break TensorRT's fused attention; whether the engine is still right is for
# the gate to say.
AUTOCAST_DATA_MAX = 32768.0
# BF16 ends where FP32 does, nearly.
BFLOAT16_MAX = 3.38e38


class ConvertRequest(Frozen):
    """The graph to convert, its model, and the folder for the result. The reply adds to the recipe, by name.

    `samples` holds shards, for INT8 and FP8 those of the calibration set; `exclude` is there for INT8 only.
    `exclude` are nodes that stay as they are, by the names that `name_nodes` gives once `fold_transposed_weights` is
    done.
    """

    onnx: Path
    output: Path
    spec: ModelSpec
    external_bytes: int
    samples: Path | None = None
    method: CalibrationMethod | None = None
    exclude: tuple[str, ...] = ()


class CalibrationReader:
    """Calibration batches one after the other, as ONNX Runtime's and ModelOpt's calibrators ask for them.

    Shards may differ in shape; every batch is of one shard. Never more than one shard is in memory.
    """

    def __init__(self, request: ConvertRequest, progress: Callable[[int, int], None]) -> None:
        assert request.samples is not None  # noqa: S101 - convert sends them for INT8 and FP8
        self._paths = shard_paths(request.samples)
        batch = request.spec.dims[request.spec.batch_dim]
        self._batch = batch.model_copy(update={"opt": max(batch.min, min(batch.max, CALIBRATION_BATCH))})
        self._progress = progress
        self._batches = self._read()

    def _read(self) -> Iterator[Arrays]:
        for number, path in enumerate(self._paths):
            for feeds, _ in split_batches(load_arrays(path), self._batch):
                yield feeds
            self._progress(number + 1, len(self._paths))

    def get_next(self) -> Arrays | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)

    def get_first(self) -> Arrays:
        """The first batch, without moving on."""
        return next(self._read())

    def rewind(self) -> None:
        """Start again at the first batch."""
        self._batches = self._read()


def rows_in(path: Path) -> int:
    """Samples of a shard that `save_shard` wrote with inputs, by the header of its first array alone."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        np.lib.format.read_magic(member)
        shape, _, _ = np.lib.format.read_array_header_1_0(member)
    return int(shape[0])
