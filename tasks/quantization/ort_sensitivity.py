"""Quantizes one layer at a time with ONNX Runtime's quantizer, and measures what each does to the outputs.

A layer alone is what a conversion makes that leaves out all others, so the ranking speaks of the same pairs. Ranges are
found once, for all layers.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tasks.graphs.onnx_files import read_model, write_model
from tasks.quantization.interface import CalibrationReader
from tasks.quantization.loss import Loss, LossMeter, open_graph, take_evenly
from tasks.quantization.ort_calibration import find_ranges
from tasks.quantization.ort_int8 import prepare, quantize
from tasks.quantization.quantizable import Plan, find_quantizable
from tasks.quantization.sensitivity import LayerSensitivity, Sensitivity, SensitivityRequest, rank_layers
from tasks.samples.feeds import run_shard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    from tasks.samples.npz import Arrays


def measure(raw: dict[str, Any], progress: Callable[[int, int], None]) -> Sensitivity:
    """Serve a SensitivityRequest. Inputs and exported outputs of all samples are in memory.

    Raises:
        StageError: the graph has nothing to quantize.
    """
    request = SensitivityRequest.model_validate(raw)
    path = prepare(request.conversion)
    model = read_model(path)
    plan = find_quantizable(model)
    steps = len(plan.layers) + 1
    assert request.conversion.method is not None  # noqa: S101 - measure_sensitivity sends it
    reader = CalibrationReader(request.conversion, lambda _done, _total: None)
    ranges = find_ranges(path, plan.activations, request.conversion.method, reader)
    shards = _run_exported(request, path)
    progress(1, steps)
    layers = []
    for number, layer in enumerate(plan.layers, start=2):
        loss = _loss_of(layer, request, plan, path, ranges, shards)
        layers.append(LayerSensitivity.of(layer, _kind(model, layer), loss))
        progress(number, steps)
    samples = sum(len(next(iter(shard.values()))) for shard, _ in shards)
    return Sensitivity(layers=rank_layers(layers), samples=samples, method=request.conversion.method)


def _run_exported(request: SensitivityRequest, path: Path) -> list[tuple[Arrays, Arrays]]:
    """Shards of inputs with the outputs of the graph before it is quantized."""
    graph = open_graph(path)
    spec, chosen = request.conversion.spec, take_evenly(request.data, request.most_samples)
    batch = spec.dims[spec.batch_dim]
    return [(shard, run_shard(graph, shard, batch)) for shard, _, _ in chosen]


def _loss_of(
    layer: str,
    request: SensitivityRequest,
    plan: Plan,
    prepared: Path,
    ranges: Any,
    shards: list[tuple[Arrays, Arrays]],
) -> Loss:
    model = read_model(prepared)  # anew, since the quantizer changes it
    alone = find_quantizable(model, [name for name in plan.layers if name != layer])
    folder = prepared.parent.parent / "alone"
    folder.mkdir()
    quantized = quantize(model, alone, ranges)
    graph = open_graph(write_model(quantized, folder, external_bytes=request.conversion.external_bytes))
    spec = request.conversion.spec
    meter, batch = LossMeter(spec.outputs), spec.dims[spec.batch_dim]
    for shard, exported in shards:
        meter.update(exported, run_shard(graph, shard, batch), shard)
    shutil.rmtree(folder)
    return meter.result()


def _kind(model: onnx.ModelProto, name: str) -> str:
    kinds: dict[str, str] = {node.name: node.op_type for node in model.graph.node}
    return kinds[name]
