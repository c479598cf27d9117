"""The layers of a TensorRT engine, by its inspector, with the time of each, by a profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING, Any

from tasks.backends.interface import LayerTime
from tasks.errors import StageError

if TYPE_CHECKING:
    from tasks.backends.cuda import Stream

CALLS = 20


def measure_layers(trt: Any, engine: Any, context: Any, stream: Stream) -> list[LayerTime]:
    """Run `context`, whose inputs are bound, CALLS times; return its layers with the median time of each."""
    times: dict[str, list[float]] = defaultdict(list)

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # its base has no type
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name].append(ms)

    profiler = Profiler()
    context.profiler = profiler
    for _ in range(CALLS):
        if not context.execute_async_v3(int(stream.handle)):
            raise StageError("TensorRT could not run the engine to time its layers")
        stream.wait()
    known = {str(layer.get("Name")): layer for layer in inspect_layers(trt, engine)}
    return [_layer(name, known.get(name, {}), median(found)) for name, found in times.items()]


def inspect_layers(trt: Any, engine: Any) -> list[dict[str, Any]]:
    """What the inspector says of each layer; a layer that it describes in no JSON is left out."""
    inspector = engine.create_engine_inspector()
    layers = []
    for number in range(engine.num_layers):
        text = inspector.get_layer_information(number, trt.LayerInformationFormat.JSON)
        with suppress(ValueError):
            layers.append(json.loads(text, strict=False))  # 8.6 writes separators as they are, control characters
    return [layer for layer in layers if isinstance(layer, dict)]


def _layer(name: str, found: dict[str, Any], time_ms: float) -> LayerTime:
    tensors = [*found.get("Inputs", []), *found.get("Outputs", [])]
    formats = sorted({str(tensor.get("Format/Datatype", "")) for tensor in tensors if isinstance(tensor, dict)})
    return LayerTime(
        name=name,
        kind=str(found.get("LayerType", "")),
        formats=", ".join(filter(None, formats)),
        tactic=str(found.get("TacticName", "")),
        time_ms=time_ms,
    )
