"""FP16 by NVIDIA ModelOpt's AutoCast: casts node by node, and leaves in FP32 what would overflow or lose too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelopt.onnx.autocast import convert_to_mixed_precision

from tasks.graphs.onnx_files import write_model
from tasks.quantization.interface import AUTOCAST_DATA_MAX, ConvertRequest
from tasks.samples.npz import save_shard
from tasks.samples.shapes import optimal_extents, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest.

    AutoCast runs the graph once to find the nodes whose values FP16 cannot hold. It gets seeded inputs, not the
    calibration set: that belongs to INT8, and FP16 must not change with it.
    """
    request = ConvertRequest.model_validate(raw)
    probe = request.output.parent / "probe"
    probe.mkdir()
    save_shard(probe, 0, seeded_feeds(request.spec.inputs, optimal_extents(request.spec.dims)))
    model = convert_to_mixed_precision(
        str(request.onnx),
        low_precision_type="fp16",
        keep_io_types=True,
        data_max=AUTOCAST_DATA_MAX,
        calibration_data=str(probe),
        providers=["cpu"],
    )
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}
