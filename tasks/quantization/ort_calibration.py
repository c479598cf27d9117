"""Finds the ranges of activations with ONNX Runtime's calibrators, one batch at a time.

Left to themselves these keep every tensor of every batch in memory, cannot take batches of different shapes, and
count entropy over so few bins (128) that it can choose nothing but the full range. So a first pass finds the extremes,
and a second fills histograms whose edges are then known: memory and time no longer depend on the number or order of
the batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization.calibrate import (
    EntropyCalibrater,
    HistogramCollector,
    MinMaxCalibrater,
    PercentileCalibrater,
)

from tasks.graphs.custom_ops import register_libraries
from tasks.graphs.onnx_files import WEIGHTS_FILE
from tasks.quantization.interface import HISTOGRAM_BINS, PERCENTILE, QUANTIZED_BINS, CalibrationReader
from tasks.specs import CalibrationMethod

if TYPE_CHECKING:
    from tasks.samples.npz import Arrays


def find_ranges(model: Path, activations: tuple[str, ...], method: CalibrationMethod, reader: CalibrationReader) -> Any:
    """Return ONNX Runtime's TensorsData: a range for each of `activations`."""
    external = (model.parent / WEIGHTS_FILE).exists()
    minmax = MinMaxCalibrater(
        model, augmented_model_path=str(model.with_name("extremes.onnx")), use_external_data_format=external
    )
    extremes = _run(minmax, activations, reader)
    if method is CalibrationMethod.MINMAX:
        return extremes
    kind = EntropyCalibrater if method is CalibrationMethod.ENTROPY else PercentileCalibrater
    calibrator = kind(
        model, augmented_model_path=str(model.with_name("histograms.onnx")), use_external_data_format=external
    )
    calibrator.collector = _empty_histograms(calibrator, extremes)
    reader.rewind()
    return _run(calibrator, activations, reader)


def _empty_histograms(calibrator: Any, extremes: Any) -> Any:
    collector = HistogramCollector(
        method=calibrator.method,
        symmetric=False,  # two-sided histograms; the quantizer makes the range symmetric
        num_bins=HISTOGRAM_BINS,
        num_quantized_bins=QUANTIZED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )
    for name, found in extremes.items():
        low, high = (np.float32(np.asarray(value).item()) for value in found.range_value)
        threshold = np.maximum(np.abs(low), np.abs(high))
        edges = np.linspace(-threshold, threshold, HISTOGRAM_BINS + 1, dtype=np.float32)
        collector.histogram_dict[name] = (np.zeros(HISTOGRAM_BINS, np.int64), edges, low, high, threshold)
    return collector


def _run(calibrator: Any, activations: tuple[str, ...], reader: CalibrationReader) -> Any:
    select = calibrator.select_tensors_to_calibrate
    calibrator.select_tensors_to_calibrate = lambda model: (set(activations), select(model)[1])
    calibrator.augment_graph()
    calibrator.infer_session = _open(calibrator)
    while (feeds := reader.get_next()) is not None:
        calibrator.collect_data(_OneBatch(feeds))
    return calibrator.compute_data()


def _open(calibrator: Any) -> ort.InferenceSession:
    """The calibrator's own session, but for the libraries of custom operations that lie beside its graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    register_libraries(options, Path(calibrator.augmented_model_path))
    return ort.InferenceSession(calibrator.augmented_model_path, options, providers=calibrator.execution_providers)


class _OneBatch:
    """A calibration reader of one batch."""

    def __init__(self, feeds: Arrays) -> None:
        self._batches = [feeds]

    def get_next(self) -> Arrays | None:
        return self._batches.pop() if self._batches else None
