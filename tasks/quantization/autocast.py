"""FP16 and BF16 by NVIDIA ModelOpt's AutoCast: casts node by node, and leaves in FP32 what FP16 cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from modelopt.onnx.autocast import convert_to_mixed_precision

from tasks.graphs.custom_ops import refuse_libraries
from tasks.graphs.onnx_files import renew_shapes, write_model
from tasks.quantization.interface import AUTOCAST_DATA_MAX, BFLOAT16_MAX, ConvertRequest
from tasks.quantization.range_samples import range_samples
from tasks.samples.npz import save_shard
from tasks.samples.shapes import optimal_extents, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


def convert(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest: FP16."""
    return _convert(ConvertRequest.model_validate(raw), "fp16")


def convert_to_bfloat16(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> dict[str, str]:
    """Serve a ConvertRequest: BF16, which holds every value that FP32 does."""
    return _convert(ConvertRequest.model_validate(raw), "bf16")


def _convert(request: ConvertRequest, kind: Literal["fp16", "bf16"]) -> dict[str, str]:
    model = cast_around(request, kind)
    renew_shapes(model)
    write_model(model, request.output, external_bytes=request.external_bytes)
    return {}


def cast_around(request: ConvertRequest, kind: Literal["fp16", "bf16"]) -> onnx.ModelProto:
    """The request's graph in 16 bits, but for what these cannot hold; its inner shapes are AutoCast's guesses.

    AutoCast runs the graph on `range_samples` to find the nodes whose values FP16 cannot hold. Without samples it gets
    seeded noise, which says little of the values that a model meets.
    """
    refuse_libraries(request.onnx, "AutoCast")
    spec, probe = request.spec, request.output.parent / "probe"
    probe.mkdir()
    if request.samples is None:
        batches = [seeded_feeds(spec.inputs, optimal_extents(spec.dims))]
    else:
        batches = range_samples(request.samples, spec)
    for number, batch in enumerate(batches):
        save_shard(probe, number, batch)
    limits = {"data_max": AUTOCAST_DATA_MAX} if kind == "fp16" else {"data_max": BFLOAT16_MAX, "init_max": BFLOAT16_MAX}
    converted: onnx.ModelProto = convert_to_mixed_precision(
        str(request.onnx),
        low_precision_type=kind,
        keep_io_types=True,
        calibration_data=str(probe),
        providers=["cpu"],
        **limits,
    )
    return converted
