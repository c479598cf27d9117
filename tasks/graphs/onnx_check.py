"""Loads ONNX graphs into ONNX Runtime, in a child process: a converted graph can crash it while it loads."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort

from tasks.errors import StageError
from tasks.graphs.cpu_form import as_cpu_runs
from tasks.graphs.custom_ops import custom_operations, register_libraries
from tasks.graphs.interface import CheckExportRequest, CheckFreshRequest, CheckTypedRequest, export_steps
from tasks.graphs.level import set_level
from tasks.graphs.onnx_files import check_external_data, opset_of
from tasks.graphs.ties import tied_ranks
from tasks.samples.differences import (
    allowed_difference,
    are_whole,
    difference_in_words,
    largest_difference,
    relative_error,
)
from tasks.samples.feeds import run_shard
from tasks.samples.npz import Arrays, load_arrays, shard_paths
from tasks.samples.shapes import Extents, check_shapes, feeds_at, optimal_extents, shape_label

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from tasks.specs import ModelSpec


# Inputs that are in no file may lie where a model was never trained, and its values are large or cancel there.
FRESH_SLACK = 10.0
LOG_ERRORS_ONLY = 3


def open_session(path: Path, *, written_out: bool = False) -> ort.InferenceSession:
    """Load a graph on the CPU, with the libraries and at the level that lie beside it; or as `cpu_form` has it."""
    check_external_data(path)
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work shares this machine
    register_libraries(options, path)
    set_level(options, path)
    source: str | bytes = str(path)
    if written_out:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        model = onnx.load(path, load_external_data=False)
        as_cpu_runs(model)
        source = model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check_valid(path: Path) -> None:
    """Let ONNX's own checker look at a file as a whole, types and shapes as well.

    Raises:
        StageError: it is not what the standard calls a model; ONNX Runtime may load it nevertheless.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"the converted graph is no valid ONNX: {error}") from error


def check_export(raw: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, float]:
    """Serve a CheckExportRequest; return the largest |difference| by shape, in the outputs' own units.

    Raises:
        StageError: ONNX Runtime cannot load or run the graph, or an output differs; output and shape are named.
    """
    request = CheckExportRequest.model_validate(raw)
    try:
        session = open_session(request.onnx)
    except Exception as error:
        raise StageError(f"export: ONNX Runtime cannot load the exported graph: {error}{_unknown(request)}") from error
    _check_signature(session, request)
    shapes = check_shapes(request.spec.dims)
    checks: dict[str, float] = {}
    for number, (shape, path) in enumerate(zip(shapes, shard_paths(request.expected), strict=True), start=1):
        label = shape_label(shape)
        checks[label] = _compare(session, request, load_arrays(path), label)
        progress(request.progress_before + number, export_steps(len(shapes)))
    return checks


def _unknown(request: CheckExportRequest) -> str:
    custom = custom_operations(onnx.load(request.onnx, load_external_data=False))
    if not custom or request.spec.build.onnxruntime_plugins:
        return ""
    return f"\nName the library that computes {', '.join(custom)} under build.onnxruntime_plugins in model.yaml"


def _check_signature(session: ort.InferenceSession, request: CheckExportRequest) -> None:
    found = {value.name: value.type for value in session.get_inputs()}
    wanted = {name: _ort_type(spec.dtype) for name, spec in request.spec.inputs.items()}
    if found != wanted:
        raise StageError(
            f"export: the graph takes {found}, model.yaml declares {wanted}; an input that the module never uses"
            " is dropped by exporters: remove it from model.yaml, or use it"
        )
    outputs = [value.name for value in session.get_outputs()]
    if outputs != list(request.spec.outputs):
        raise StageError(f"export: the graph gives {outputs}, model.yaml declares {list(request.spec.outputs)}")


def _ort_type(dtype: str) -> str:
    names = {"float32": "float", "float64": "double"}
    return f"tensor({names.get(dtype, dtype)})"


def _compare(session: ort.InferenceSession, request: CheckExportRequest, arrays: Arrays, label: str) -> float:
    outputs = list(request.spec.outputs)
    feeds = {name.removeprefix("in."): array for name, array in arrays.items() if name.startswith("in.")}
    try:
        found = session.run(outputs, feeds)
    except Exception as error:
        raise StageError(
            f"export: output {', '.join(outputs)}: the exported graph cannot be run at {label}, the module can:"
            f" {error}\n{_remedy(request.spec)}"
        ) from error
    largest = 0.0
    for name, array in zip(outputs, found, strict=True):
        try:
            largest = max(largest, _difference(name, array, arrays[f"out.{name}"], label))
        except StageError as error:
            raise StageError(f"{error}\n{_cause(request, name, feeds)}") from error
    return largest


def _cause(request: CheckExportRequest | CheckFreshRequest, output: str, feeds: Arrays) -> str:
    """Why an output may differ on these inputs, and what to do about it."""
    try:
        ties = tied_ranks(request.onnx, output, feeds)
    except Exception:  # noqa: BLE001 - a graph that cannot be looked into is no worse than one that holds no ties
        ties = ""
    return ties or _remedy(request.spec)


def _remedy(spec: ModelSpec) -> str:
    other = "use export.exporter: dynamo, or " if spec.export.exporter == "torchscript" else ""
    return (
        f"The exporter may have fixed a dimension or a branch while it traced; {other}rewrite the operation so that it"
        " does not depend on Python numbers"
    )


def _difference(
    name: str, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], label: str, slack: float = 1.0
) -> float:
    if found.shape != expected.shape:
        raise StageError(
            f"export: output {name}: the graph gives shape {list(found.shape)} at {label}, the module"
            f" {list(expected.shape)}."
        )
    largest, allowed = largest_difference(found, expected), allowed_difference(expected, slack)
    if not largest <= allowed:
        times = "" if slack == 1 else f"{slack:g} times "
        why = "" if are_whole(expected) else f" ({times}1e-5 + 1e-4 of the largest value)"
        far, most = (difference_in_words(number, expected) for number in (largest, allowed))
        raise StageError(
            f"export: output {name}: the graph differs from the module by {far} at {label}, more than {most}{why}."
        )
    return largest


def check_fresh(raw: dict[str, Any], progress: Callable[[int, int], None]) -> float:
    """Serve a CheckFreshRequest; return the largest |difference| of any output, in the outputs' own units.

    Raises:
        StageError: the graph cannot be run on them, or an output differs; output and inputs are named.
    """
    request = CheckFreshRequest.model_validate(raw)
    session, names = open_session(request.onnx), list(request.spec.outputs)
    batch, largest = request.spec.dims[request.spec.batch_dim], 0.0
    sizes = itertools.cycle((batch.opt, batch.min, batch.max))

    def run(feeds: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, feeds), strict=True))

    differing = names[0]
    for number, (path, label) in enumerate(zip(shard_paths(request.inputs), request.labels, strict=True), start=1):
        feeds, expected = load_arrays(path), load_arrays(request.outputs / path.name)
        try:
            found = run_shard(run, feeds, batch, sizes)
            for name in names:
                differing = name
                largest = max(largest, _difference(name, found[name], expected[name], label, FRESH_SLACK))
        except Exception as error:
            raise StageError(
                f"export: the graph agrees with the module on the validation samples, and not on inputs that are in no"
                f" file, {label}: {str(error).removeprefix('export: ')}\n{_cause(request, differing, feeds)}"
            ) from error
        progress(number, len(request.labels))
    return largest


def check_typed(raw: dict[str, Any], _progress: Callable[[int, int], None]) -> int:
    """Serve a CheckTypedRequest; return the graph's opset, which ModelOpt may have raised.

    Raises:
        StageError: ONNX Runtime cannot load the graph, or not run it at a check shape at which the original runs, or
            it does not agree with the original there, or its inputs or outputs are not the original's.
    """
    request = CheckTypedRequest.model_validate(raw)
    check_valid(request.onnx)
    try:
        session = open_session(request.onnx, written_out=request.written_out)
    except Exception as error:
        raise StageError(f"ONNX Runtime cannot load the converted graph: {error}") from error
    original = open_session(request.original)
    dims = request.spec.dims
    shapes = [optimal_extents(dims)] if request.opt_only else check_shapes(dims)
    if not sum(_compare_typed(session, original, request, extents) for extents in shapes):
        raise StageError("the exported graph runs at none of the check shapes on the samples that there are")
    converted = onnx.load(request.onnx, load_external_data=False)
    found, wanted = _signature(converted), _signature(onnx.load(request.original, load_external_data=False))
    if found != wanted:
        raise StageError(f"the converted graph takes and gives {found}, the exported one {wanted}")
    return opset_of(converted)


def _compare_typed(
    session: ort.InferenceSession, original: ort.InferenceSession, request: CheckTypedRequest, extents: Extents
) -> bool:
    """Compare both at one shape; return False where the original takes no inputs that were cut or tiled to it."""
    feeds, label = feeds_at(request.samples, request.spec.inputs, extents), shape_label(extents)
    names = [value.name for value in original.get_outputs()]
    try:
        expected = original.run(names, feeds)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
        return False
    try:
        found = session.run(names, feeds)
    except Exception as error:
        raise StageError(
            f"ONNX Runtime cannot run the converted graph at {label}, where it runs the exported one: {error}"
        ) from error
    for name, ours, theirs in zip(names, found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise StageError(
                f"output {name}: the converted graph gives shape {list(ours.shape)} at {label}, the exported one"
                f" {list(theirs.shape)}"
            )
        if request.most_error is not None and theirs.dtype.kind == "f":
            apart = relative_error(ours, theirs)
            if not apart <= request.most_error:
                raise StageError(
                    f"output {name}: the converted graph differs from the exported one by {apart:.3g} at {label}, by"
                    f" relative L2, and {request.most_error:g} is the most"
                )
    return True


def _signature(model: onnx.ModelProto) -> list[tuple[str, str]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        (value.name, onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))
        for value in (*model.graph.input, *model.graph.output)
        if value.name not in weights
    ]
