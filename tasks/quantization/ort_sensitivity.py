"""Quantizes one layer at a time with ONNX Runtime's quantizer, and measures what each does to the outputs.

A layer alone is what a conversion makes that leaves out all others, so the ranking speaks of the same pairs. Ranges are
found once, for all layers.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tasks.graphs.custom_ops import copy_libraries
from tasks.graphs.onnx_files import read_model, write_model
from tasks.quantization.interface import CalibrationReader
from tasks.quantization.loss import Loss, LossMeter, open_graph, take_evenly
from tasks.quantization.ort_calibration import find_ranges
from tasks.quantization.ort_int8 import prepare, quantize
from tasks.quantization.quantizable import find_quantizable
from tasks.quantization.sensitivity import LayerSensitivity, Sensitivity, SensitivityRequest, rank_layers
from tasks.samples.feeds import run_shard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.declared import Dim
    from tasks.samples.npz import Arrays


def measure(raw: dict[str, Any], progress: Callable[[int, int], None]) -> Sensitivity:
    """Serve a SensitivityRequest. Inputs and exported outputs of all samples are in memory.

    Raises:
        StageError: the graph has nothing to quantize.
    """
    request = SensitivityRequest.model_validate(raw)
    conversion, method = request.conversion, request.conversion.method
    path = prepare(conversion)
    model = read_model(path)
    plan = find_quantizable(model)
    kinds: dict[str, str] = {node.name: node.op_type for node in model.graph.node}
    steps = len(plan.layers) + 1
    assert method is not None  # noqa: S101 - measure_sensitivity sends it
    ranges = find_ranges(path, plan.activations, method, CalibrationReader(conversion, lambda _done, _total: None))
    shards = _run_exported(request, path)
    progress(1, steps)

    def loss_of(layer: str) -> Loss:
        alone = read_model(path)  # anew, since the quantizer changes it
        others = find_quantizable(alone, [name for name in plan.layers if name != layer])
        folder = path.parent.parent / "alone"
        folder.mkdir()
        copy_libraries(path, folder)
        quantized = write_model(quantize(alone, others, ranges), folder, external_bytes=conversion.external_bytes)
        graph, meter = open_graph(quantized), LossMeter(conversion.spec.outputs)
        for shard, exported in shards:
            meter.update(exported, run_shard(graph, shard, _batch_of(request)), shard)
        shutil.rmtree(folder)
        return meter.result()

    layers = []
    for number, layer in enumerate(plan.layers, start=2):
        layers.append(LayerSensitivity.of(layer, kinds[layer], loss_of(layer)))
        progress(number, steps)
    samples = sum(len(next(iter(shard.values()))) for shard, _ in shards)
    return Sensitivity(layers=rank_layers(layers), samples=samples, method=method)


def _run_exported(request: SensitivityRequest, path: Path) -> list[tuple[Arrays, Arrays]]:
    """Shards of inputs with the outputs of the graph before it is quantized."""
    graph, chosen = open_graph(path), take_evenly(request.data, request.most_samples)
    return [(shard, run_shard(graph, shard, _batch_of(request))) for shard, _, _ in chosen]


def _batch_of(request: SensitivityRequest) -> Dim:
    spec = request.conversion.spec
    return spec.dims[spec.batch_dim]
