"""The torch child of the export stage: traces the module, and runs it at every shape of the check."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnxslim
import torch
from onnx import TensorProto, helper

from tasks.errors import StageError
from tasks.graphs.fourier import holds_transforms, write_out_transforms
from tasks.graphs.interface import export_steps
from tasks.graphs.onnx_files import opset_of, read_model, short_reason, write_model
from tasks.graphs.opset17 import OPSET, lower_to_17
from tasks.graphs.value_names import rename_values, repeated_names
from tasks.samples.npz import Arrays, save_shard
from tasks.samples.shapes import Extents, check_shapes, feeds_at, fixed_dims, shape_label, trace_extents
from tasks.torch_side.interface import (
    AS_IT_IS,
    KEPT,
    LEFT_OUT,
    OWN_GRAPH,
    PLAIN,
    SCRIPTED,
    SIMPLIFIED,
    ExportReply,
    ExportRequest,
)
from tasks.torch_side.torch_module import PositionalModule, as_tensors, load_module, run_module
from tasks.torch_side.torch_purity import refuse_other_outputs, refuse_remembered_calls
from tasks.torch_side.torch_recurrent import traceable_recurrence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from tasks.declared import Dim

LAST = 2**63 - 1  # beyond every axis: the end of a slice to the last one
NAMED, AUTOMATIC = "named", "automatic"
TORCHSCRIPT = "torchscript"


def export(raw: dict[str, Any], progress: Callable[[int, int], None]) -> ExportReply:
    """Serve an ExportRequest; see `tasks.stages.export`."""
    request = ExportRequest.model_validate(raw)
    folder = request.output
    shapes = check_shapes(request.module.spec.dims)
    steps = export_steps(len(shapes))
    progress(0, steps)
    module = load_module(request.module)
    extents = trace_extents(request.module.spec.dims)
    feeds = feeds_at(request.samples, request.module.spec.inputs, extents)
    first = run_module(module, request.module, feeds, shape_label(extents))
    again = run_module(module, request.module, feeds, shape_label(extents))
    refuse_other_outputs(module, request.module, feeds, first, again, f"inputs of {shape_label(extents)}")
    other = feeds_at(request.samples, request.module.spec.inputs, shapes[0])
    refuse_remembered_calls(module, request.module, feeds, first, other)
    progress(1, steps)
    model, dynamic_dims = _trace(module, request, feeds)
    notes = _reach_opset(model, request) if dynamic_dims != AS_IT_IS else {}
    progress(2, steps)
    outputs: list[dict[str, tuple[int, ...]]] = []
    (folder / "expected").mkdir()
    for number, shape in enumerate(shapes):
        feeds = feeds_at(request.samples, request.module.spec.inputs, shape)
        expected = run_module(module, request.module, feeds, shape_label(shape))
        save_shard(folder / "expected", number, {**_prefixed("in", feeds), **_prefixed("out", expected)})
        outputs.append({name: array.shape for name, array in expected.items()})
        progress(3 + number, steps)
    _name_axes(model, request, shapes, outputs)
    spell_out_shapes(model)
    failure = _write_both(model, folder, request.external_bytes)
    left_out = ", ".join(module.left_out)
    return ExportReply(
        simplify_failure=failure,
        dynamic_dims=dynamic_dims,
        opset=opset_of(model),
        exporter=exporter_of(module, request),
        notes={**notes, **({LEFT_OUT: left_out} if left_out else {})},
    )


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


@dataclass(frozen=True)
class _Names:
    """What inputs and outputs are called while the exporter works."""

    inputs: list[str]
    outputs: list[str]


def _trace(module: PositionalModule, request: ExportRequest, feeds: Arrays) -> tuple[onnx.ModelProto, str]:
    """Trace under the names of model.yaml; under private ones where the exporter gives one to another value too.

    A module that runs a graph of its own is not traced: its graph is that one.
    """
    spec = request.module.spec
    own: Path | None = getattr(module.module, OWN_GRAPH, None)
    if own is not None:
        return _taken(read_model(own), list(spec.outputs)), AS_IT_IS
    declared = _Names(list(spec.inputs), list(spec.outputs))
    model, dynamic_dims = _traced(module, request, feeds, declared)
    if repeated_names(model):
        private = _Names(
            [f"enginegate_input_{number}" for number in range(len(spec.inputs))],
            [f"enginegate_output_{number}" for number in range(len(spec.outputs))],
        )
        model, dynamic_dims = _traced(module, request, feeds, private)
        pairs = ((private.inputs, declared.inputs), (private.outputs, declared.outputs))
        rename_values(model, {old: new for olds, news in pairs for old, new in zip(olds, news, strict=True)})
    return model, dynamic_dims


def _taken(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """A graph with the declared outputs alone, in their order."""
    found = {value.name: value for value in model.graph.output}
    wanted = [copy.deepcopy(found[name]) for name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(wanted)
    return model


def exporter_of(module: PositionalModule, request: ExportRequest) -> str:
    """The exporter that model.yaml names, or the only one that a module takes."""
    if hasattr(module.module, OWN_GRAPH):
        return "none"
    is_scripted = getattr(module.module, SCRIPTED, None) is not None
    return TORCHSCRIPT if is_scripted else request.module.spec.export.exporter


def _traced(
    module: PositionalModule, request: ExportRequest, feeds: Arrays, names: _Names
) -> tuple[onnx.ModelProto, str]:
    exporter = exporter_of(module, request)
    arguments = as_tensors({name: feeds[name] for name in request.module.spec.inputs})
    path = request.output / "traced.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if exporter == TORCHSCRIPT:
                _trace_torchscript(module, request, arguments, path, names)
                dynamic_dims = NAMED
            else:
                dynamic_dims = _trace_dynamo(module, request, arguments, path, names)
        except Exception as error:
            other = TORCHSCRIPT if exporter == "dynamo" else "dynamo"
            raise StageError(
                f"export: the {exporter} exporter failed: {type(error).__name__}: {error}\n"
                f"Try export.exporter: {other}, another export.opset, or rewrite the operation that it names"
            ) from error
    return read_model(path), dynamic_dims


def _reach_opset(model: onnx.ModelProto, request: ExportRequest) -> dict[str, str]:
    """Bring the graph to the wanted opset where the exporter did not; return what there is to tell of it."""
    wanted, spec = request.module.spec.export, request.module.spec
    found = opset_of(model)
    # Torch's exporter may call a graph one of opset 17 whose reductions are still those of 18.
    if wanted.opset == OPSET and wanted.exporter == "dynamo" and found in {OPSET, OPSET + 1}:
        lower_to_17(model)
        found = OPSET
    if found != wanted.opset:
        raise StageError(
            f"export: the {wanted.exporter} exporter wrote opset {found}, not {wanted.opset};"
            f" set export.opset: {found}, or try the other exporter"
        )
    if found > OPSET or not holds_transforms(model):
        return {}
    try:
        write_out_transforms(model)
    except StageError as error:
        if any(target != "cpu" for target in spec.targets):
            raise
        return {KEPT: f"{short_reason(error)}; ONNX Runtime has the operator"}
    return {}


def _trace_torchscript(
    module: PositionalModule,
    request: ExportRequest,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    names: _Names,
) -> None:
    spec, batch = request.module.spec, _batch(request)
    # What is TorchScript already is taken whole, with its own order of inputs: it cannot be traced within another.
    script = getattr(module.module, SCRIPTED, None)
    order = list(range(len(arguments))) if script is None else [list(spec.inputs).index(one) for one in script.taken]
    torch.onnx.export(
        module if script is None else script.with_outputs(list(spec.outputs)),
        tuple(arguments[place] for place in order),
        str(path),
        dynamo=False,
        opset_version=spec.export.opset,
        input_names=[names.inputs[place] for place in order],
        output_names=names.outputs,
        dynamic_axes={
            **{called: _dynamic_axes(request, name) for called, name in zip(names.inputs, spec.inputs, strict=True)},
            # Further axes of outputs are named after the check has shown how they vary.
            **{called: {0: batch} for called in names.outputs if batch},
        },
    )


def _batch(request: ExportRequest) -> str:
    first = str(next(iter(request.module.spec.inputs.values())).shape[0])
    return "" if first in fixed_dims(request.module.spec.dims) else first


def _dynamic_axes(request: ExportRequest, name: str) -> dict[int, str]:
    fixed = fixed_dims(request.module.spec.dims)
    shape = request.module.spec.inputs[name].shape
    return {axis: extent for axis, extent in enumerate(shape) if isinstance(extent, str) and extent not in fixed}


def _trace_dynamo(
    module: PositionalModule, request: ExportRequest, arguments: tuple[torch.Tensor, ...], path: Path, names: _Names
) -> str:
    """Trace with dimensions bounded by name; where torch finds them related, let it say how (the check then tells)."""
    free = {
        name: dim for name, dim in request.module.spec.dims.items() if name not in fixed_dims(request.module.spec.dims)
    }
    named = {name: _torch_dim(name, dim) for name, dim in free.items()}
    with traceable_recurrence(module, plain=len(free.keys() - {request.module.spec.batch_dim}) > 0):
        return _save_either(module, request, arguments, path, names, named)


def _save_either(
    module: PositionalModule,
    request: ExportRequest,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    names: _Names,
    named: Mapping[str, Any],
) -> str:
    try:
        _save_dynamo(module, request, arguments, path, names, named)
    except Exception:  # noqa: BLE001 - torch raises many classes here; the second try reports whatever is left
        automatic = dict.fromkeys(named, torch.export.Dim.AUTO)
        _save_dynamo(module, request, arguments, path, names, automatic)
        return AUTOMATIC
    return NAMED


def _torch_dim(name: str, dim: Dim) -> Any:
    if dim.step == 1:
        return torch.export.Dim(name, min=dim.min, max=dim.max)
    return dim.step * torch.export.Dim(f"{name}_steps", min=dim.min // dim.step, max=dim.max // dim.step)


def _save_dynamo(
    module: PositionalModule,
    request: ExportRequest,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    names: _Names,
    dims: Mapping[str, Any],
) -> None:
    shapes = tuple(
        {axis: dims[dimension] for axis, dimension in _dynamic_axes(request, name).items()}
        for name in request.module.spec.inputs
    )
    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        verbose=False,
        opset_version=request.module.spec.export.opset,
        dynamic_shapes=(shapes,),
        input_names=names.inputs,
        output_names=names.outputs,
    )
    assert program is not None  # noqa: S101 - dynamo=True returns the program
    program.save(str(path), external_data=True)


def _name_axes(
    model: onnx.ModelProto,
    request: ExportRequest,
    shapes: Sequence[Extents],
    outputs: Sequence[Mapping[str, tuple[int, ...]]],
) -> None:
    """Write the dimensions of model.yaml into the graph's inputs, and into its outputs as they were seen to vary."""
    fixed = fixed_dims(request.module.spec.dims)
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        for axis, extent in zip(axes, request.module.spec.inputs[value.name].shape, strict=True):
            _set_axis(axis, fixed.get(extent, extent) if isinstance(extent, str) else extent)
    for value in model.graph.output:
        seen = [found[value.name] for found in outputs]
        for number, axis in enumerate(value.type.tensor_type.shape.dim):
            _set_axis(axis, _axis_name([shape[number] for shape in seen], shapes, f"{value.name}_{number}"))


def _axis_name(extents: Sequence[int], shapes: Sequence[Extents], fallback: str) -> str | int:
    if len(set(extents)) == 1:
        return extents[0]
    for dimension in shapes[0]:
        if all(extent == shape[dimension] for extent, shape in zip(extents, shapes, strict=True)):
            return dimension
    return fallback


def _set_axis(axis: onnx.TensorShapeProto.Dimension, extent: str | int) -> None:
    if isinstance(extent, str):
        axis.dim_param = extent
    else:
        axis.dim_value = extent


def spell_out_shapes(model: onnx.ModelProto) -> None:
    """Write a `Shape` of some axes only, which opset 15 brought, as a slice of the whole shape.

    TensorRT 8.6 reads over the attributes `start` and `end` and takes the whole shape.
    """
    graph = model.graph
    for number, node in reversed(list(enumerate(graph.node))):
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type != "Shape" or not bounds:
            continue
        whole, (part,) = f"{node.output[0]}_whole", node.output
        limits = {"start": bounds.get("start", 0), "end": bounds.get("end", LAST), "axis": 0}
        names = {name: f"{part}_{name}" for name in limits}
        graph.initializer.extend(
            helper.make_tensor(names[name], TensorProto.INT64, [1], [limit]) for name, limit in limits.items()
        )
        piece = helper.make_node("Slice", [whole, *names.values()], [part], name=f"{node.name}_slice")
        graph.node.insert(number + 1, piece)
        node.output[0] = whole
        del node.attribute[:]


def _write_both(model: onnx.ModelProto, folder: Path, external_bytes: int) -> str:
    """Write the plain and the simplified graph; return why there is no simplified one, or nothing."""
    (folder / PLAIN).mkdir()
    (folder / SIMPLIFIED).mkdir()
    plain = write_model(model, folder / PLAIN, external_bytes=external_bytes)
    try:
        simplified = onnxslim.slim(str(plain))
        write_model(simplified, folder / SIMPLIFIED, external_bytes=external_bytes)
    except Exception as error:  # noqa: BLE001 - a simplifier is never worth a failed export; the recipe records it
        return short_reason(error)
    return ""
