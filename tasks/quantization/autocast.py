"""FP16 by NVIDIA ModelOpt's AutoCast: casts node by node, and leaves in FP32 what would overflow or lose too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelopt.onnx.autocast import convert_to_mixed_precision

from tasks.graphs.custom_ops import refuse_libraries
from tasks.graphs.onnx_files import renew_shapes, write_model
from tasks.quantization.interface import AUTOCAST_DATA_MAX, ConvertRequest
from tasks.quantization.range_samples import range_samples
from tasks.samples.npz import save_shard
from tasks.samples.shapes import optimal_extents, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest.

    AutoCast runs the graph on `range_samples` to find the nodes whose values FP16 cannot hold. Without samples it gets
    seeded noise, which says little of the values that a model meets.
    """
    request = ConvertRequest.model_validate(raw)
    refuse_libraries(request.onnx, "AutoCast")
    spec, probe = request.spec, request.output.parent / "probe"
    probe.mkdir()
    if request.samples is None:
        batches = [seeded_feeds(spec.inputs, optimal_extents(spec.dims))]
    else:
        batches = range_samples(request.samples, spec)
    for number, batch in enumerate(batches):
        save_shard(probe, number, batch)
    model = convert_to_mixed_precision(
        str(request.onnx),
        low_precision_type="fp16",
        keep_io_types=True,
        data_max=AUTOCAST_DATA_MAX,
        calibration_data=str(probe),
        providers=["cpu"],
    )
    renew_shapes(model)
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}
