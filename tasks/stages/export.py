"""Stage 1: module and weights to ONNX, checked against the reference on several shapes.

Two children share the work. The first imports torch and the user's code, writes the graph, and runs the module at
every shape. The second loads the graph into ONNX Runtime and compares. A crash of either is an ordinary failure,
and a simplified graph that fails its check gives way to the plain one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifact import Artifact
from tasks.errors import StageError
from tasks.graphs import custom_ops, onnx_files
from tasks.graphs.interface import CheckExportRequest, export_steps
from tasks.model.toolchain import package_versions
from tasks.records import DataArtifact, ExportedModel
from tasks.samples.shapes import check_shapes
from tasks.sources.interface import copy_file
from tasks.store.digests import artifact_digest, digest_once
from tasks.store.stage_cache import StageResult, run_cached
from tasks.torch_side.interface import PLAIN, SIMPLIFIED, ExportReply, ExportRequest
from tasks.torch_side.module_source import call_with_module, lay_out, module_key

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext

RECIPE = 2
SAMPLE_SHARDS = 16


def export_onnx(
    context: StageContext, directory: ModelDirectory, samples: DataArtifact | None = None
) -> StageResult[ExportedModel]:
    """Export the module of `directory` to ONNX.

    Args:
        context: the stage's surroundings.
        directory: the model.
        samples: data to cut the inputs of tracing and of the check from. Without it they are seeded noise, and
            integers are 0 or 1. The dynamo exporter never sees their values, so they are no part of its key.

    Raises:
        InputError: source, weights, inputs or outputs are at fault.
        StageError: the exporter failed, or the graph does not agree with the reference.
    """
    spec = directory.spec
    module = module_key(directory)
    plugins = {library: digest_once(library) for library in directory.onnxruntime_plugins}
    key: dict[str, object] = {
        "recipe": RECIPE,
        "module": module,
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "export": spec.export.model_dump(mode="json"),
        "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
        "versions": package_versions("torch", "onnx", "onnx-ir", "onnxscript", "onnxslim", "onnxruntime"),
        "traced_on": samples.inputs.digest if samples is not None and spec.export.exporter == "torchscript" else None,
        **({"plugins": {library.name: digest for library, digest in plugins.items()}} if plugins else {}),
    }

    def produce(folder: Path) -> ExportedModel:
        request = ExportRequest(
            module=lay_out(directory, folder, module),
            samples=None if samples is None else fetch_some(context, samples, folder / "samples"),
            output=folder,
            external_bytes=onnx_files.EXTERNAL_DATA_BYTES,
        )
        reply = call_with_module(
            context, "tasks.torch_side.torch_export:export", request, ExportReply, folder, source=str(spec.source)
        )
        for library, digest in plugins.items():
            for kind in (PLAIN, SIMPLIFIED):
                copy_file(library, folder / kind / custom_ops.FOLDER / library.name, digest)
        return _checked(context, request, reply)

    return run_cached(context.store, "export", key, ExportedModel, produce)


def fetch_some(context: StageContext, samples: DataArtifact, folder: Path) -> Path:
    """Fetch a few shards evenly over the data, which may be sorted by length, into `folder`; return it."""
    files = samples.inputs.files
    some = files[:: -(-len(files) // SAMPLE_SHARDS)]
    return context.store.fetch(Artifact(digest=artifact_digest(some), files=some), folder)


def _checked(context: StageContext, request: ExportRequest, reply: ExportReply) -> ExportedModel:
    folder = request.output
    simplifier = f"onnxslim {package_versions('onnxslim')['onnxslim']}"
    if not reply.simplify_failure:
        try:
            checks = _check(context, request, SIMPLIFIED)
        except StageError as error:
            simplifier = f"none: the result of {simplifier} failed its check ({onnx_files.short_reason(error)})"
        else:
            return _stored(context, folder / SIMPLIFIED, checks, reply, simplifier)
    else:
        simplifier = f"none: {simplifier} failed ({reply.simplify_failure})"
    return _stored(context, folder / PLAIN, _check(context, request, PLAIN), reply, simplifier)


def _check(context: StageContext, request: ExportRequest, kind: str) -> dict[str, float]:
    folder = request.output
    shapes = len(check_shapes(request.module.spec.dims))
    check = CheckExportRequest(
        onnx=onnx_files.find_model(folder / kind),
        expected=folder / "expected",
        spec=request.module.spec,
        progress_before=export_steps(shapes) - shapes,
    )
    return context.call_in_child("tasks.graphs.onnx_check:check_export", check, dict[str, float], folder)


def _stored(
    context: StageContext,
    folder: Path,
    checks: dict[str, float],
    reply: ExportReply,
    simplifier: str,
) -> ExportedModel:
    return ExportedModel(
        onnx=context.store.put(folder),
        opset=reply.opset,
        checks=checks,
        recipe={
            "exporter": reply.exporter,
            "torch": package_versions("torch")["torch"],
            "simplifier": simplifier,
            "dynamic_dims": reply.dynamic_dims,
            **reply.notes,
        },
    )
