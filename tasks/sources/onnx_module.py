"""An ONNX file as a torch module: its forward runs ONNX Runtime. Runs in child processes only: it imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.graphs.onnx_files import QUANTIZING, check_external_data
from tasks.model.model_directory import SPEC_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.specs import ModelSpec

LOG_ERRORS_ONLY = 3
NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class OnnxModule(nn.Module):
    """Called by keyword with the inputs of the file; returns its declared outputs by name.

    `own_graph` is the file: no exporter is asked for a graph of this module.
    """

    def __init__(self, path: Path, spec: ModelSpec, origin: str) -> None:
        super().__init__()
        check_external_data(path)
        _refuse_misfits(onnx.load(str(path), load_external_data=False), spec, origin)
        self.own_graph = path
        self._outputs = list(spec.outputs)
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work shares this machine
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a class for each cause, none of them public
            raise InputError(
                f"{origin}: ONNX Runtime {ort.__version__} does not load it: {error}; export the file again, or for"
                " operators of your own bring the module instead"
            ) from None

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the file on the CPU."""
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        found = self._session.run(self._outputs, feeds)
        return {name: torch.from_numpy(array.copy()) for name, array in zip(self._outputs, found, strict=True)}


def _refuse_misfits(model: onnx.ModelProto, spec: ModelSpec, origin: str) -> None:
    """Refuse a file that is not in FP32, or whose inputs and outputs are not those of model.yaml."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    outputs = [value.name for value in graph.output]
    if any(tensor.data_type in NARROW for tensor in graph.initializer) or any(
        node.op_type in QUANTIZING for node in graph.node
    ):
        raise InputError(
            f"{origin}: holds weights in half precision, or quantized ones, and the reference must be FP32: export it"
            " without; Enginegate makes fp16 and int8 of it, and judges them"
        )
    if not any(entry.domain in {"", "ai.onnx"} for entry in model.opset_import):
        raise InputError(f"{origin}: has no standard operators; bring the module that it was made of")
    for name in spec.inputs.keys() - inputs.keys():
        raise InputError(f"{SPEC_FILE}: inputs.{name}: {origin} has no such input, but {', '.join(inputs)}; rename it")
    for name in inputs.keys() - spec.inputs.keys():
        raise InputError(f"{SPEC_FILE}: inputs: {origin} also takes {name}; declare it")
    for name in spec.outputs:
        if name not in outputs:
            known = ", ".join(outputs)
            raise InputError(f"{SPEC_FILE}: outputs.{name}: {origin} has no such output, but {known}; declare of these")
    for name, value in inputs.items():
        _refuse_input(name, value.type.tensor_type, spec, origin)


def _refuse_input(name: str, found: Any, spec: ModelSpec, origin: str) -> None:
    declared, field = spec.inputs[name], f"{SPEC_FILE}: inputs.{name}"
    if declared.batch_axis != 0:
        raise InputError(f"{field}.shape: an ONNX file is its own export, so the samples come first: [batch, …]")
    dtype = str(helper.tensor_dtype_to_np_dtype(found.elem_type))
    if dtype != declared.dtype:
        raise InputError(f"{field}.dtype: {declared.dtype}, and {origin} takes {dtype}; write that")
    if not found.HasField("shape"):
        return
    axes = [axis.dim_value or axis.dim_param or "?" for axis in found.shape.dim]
    fits = len(axes) == len(declared.shape) and all(
        not isinstance(axis, int) or axis == _only_extent(extent, spec)
        for axis, extent in zip(axes, declared.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{field}.shape: {list(declared.shape)}, and {origin} takes {axes}; declare fixed extents as they are (a"
            " dimension with min, opt and max of it), or export the file with dynamic axes"
        )


def _only_extent(extent: str | int, spec: ModelSpec) -> int | None:
    """The one extent that an axis has, None where it has several."""
    if isinstance(extent, int):
        return extent
    dim = spec.dims[extent]
    return dim.min if dim.min == dim.max else None
