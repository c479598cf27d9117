"""Stage 1: module and weights to ONNX, checked against the reference on several shapes.

Two children share the work. The first imports torch and the user's code, writes the graph, and runs the module at
every shape. The second loads the graph into ONNX Runtime and compares. A crash of either is an ordinary failure,
and a simplified graph that fails its check gives way to the plain one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks import onnx_files
from tasks.child import call_in_child
from tasks.digests import artifact_digest
from tasks.errors import StageError
from tasks.memo import Remembered, remember
from tasks.module_source import ModuleRequest, call_with_module, lay_out, module_key, package_versions
from tasks.records import Artifact, ExportedModel
from tasks.shapes import check_shapes
from tasks.specs import Dim, ExportSpec, Frozen, InputSpec

if TYPE_CHECKING:
    from tasks.model_directory import ModelDirectory
    from tasks.records import DataArtifact
    from tasks.workbench import Workbench

RECIPE = 2
SAMPLE_SHARDS = 16
PLAIN, SIMPLIFIED = "plain", "simplified"


class ExportRequest(Frozen):
    """What the torch child exports, and where to; paths are of this host."""

    module: ModuleRequest
    dims: dict[str, Dim]
    export: ExportSpec
    samples: str | None
    output: str
    external_bytes: int


class ExportReply(Frozen):
    """Folders `plain` and `simplified` hold the graphs, `expected` the reference at every shape.

    `simplify_failure` says why there is no simplified graph; it is empty where there is one.
    """

    simplify_failure: str
    dynamic_dims: str


class CheckExportRequest(Frozen):
    """An exported graph and what the reference gave: `{number:05d}.npz` for each of the check shapes."""

    onnx: str
    expected: str
    inputs: dict[str, InputSpec]
    outputs: tuple[str, ...]
    dims: dict[str, Dim]
    progress_before: int


class CheckExportReply(Frozen):
    """Largest |difference| by shape, in the outputs' own units."""

    checks: dict[str, float]


def export_onnx(
    bench: Workbench, directory: ModelDirectory, samples: DataArtifact | None = None
) -> Remembered[ExportedModel]:
    """Export the module of `directory` to ONNX.

    Args:
        bench: the stage's surroundings.
        directory: the model.
        samples: data to cut the inputs of tracing and of the check from. Without it they are seeded noise, and
            integers are 0 or 1. The dynamo exporter never sees their values, so they are no part of its key.

    Raises:
        InputError: source, weights, inputs or outputs are at fault.
        StageError: the exporter failed, or the graph does not agree with the reference.
    """
    spec = directory.spec
    module = module_key(directory)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "module": module,
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "export": spec.export.model_dump(mode="json"),
        "external_bytes": onnx_files.EXTERNAL_DATA_BYTES,
        "versions": package_versions("torch", "onnx", "onnx-ir", "onnxscript", "onnxslim", "onnxruntime"),
        "traced_on": samples.inputs.digest if samples is not None and spec.export.exporter == "torchscript" else None,
    }

    def produce() -> ExportedModel:
        with bench.store.scratch() as folder:
            shards = None if samples is None else _fetch_some(bench, samples, folder / "samples")
            request = ExportRequest(
                module=lay_out(directory, folder, module),
                dims=spec.dims,
                export=spec.export,
                samples=None if shards is None else str(shards),
                output=str(folder),
                external_bytes=onnx_files.EXTERNAL_DATA_BYTES,
            )
            reply = call_with_module(
                "tasks.torch_export:export",
                request,
                ExportReply,
                folder,
                source=spec.source,
                time_limit_s=bench.time_limit_s,
                on_progress=bench.on_progress,
                memory_limit_bytes=bench.memory_limit_bytes,
            )
            return _checked(bench, request, reply)

    return remember(bench.store, "export", key, ExportedModel, produce)


def _fetch_some(bench: Workbench, samples: DataArtifact, folder: Path) -> Path:
    """Fetch shards evenly over the data, which may be sorted by length."""
    files = samples.inputs.files
    some = files[:: -(-len(files) // SAMPLE_SHARDS)]
    return bench.store.fetch(Artifact(digest=artifact_digest(some), files=some), folder)


def _checked(bench: Workbench, request: ExportRequest, reply: ExportReply) -> ExportedModel:
    folder = Path(request.output)
    simplifier = f"onnxslim {package_versions('onnxslim')['onnxslim']}"
    if not reply.simplify_failure:
        try:
            checks = _check(bench, request, SIMPLIFIED)
        except StageError as error:
            simplifier = f"none: the result of {simplifier} failed its check ({onnx_files.short_reason(error)})"
        else:
            return _stored(bench, request, folder / SIMPLIFIED, checks, reply, simplifier)
    else:
        simplifier = f"none: {simplifier} failed ({reply.simplify_failure})"
    return _stored(bench, request, folder / PLAIN, _check(bench, request, PLAIN), reply, simplifier)


def _check(bench: Workbench, request: ExportRequest, kind: str) -> dict[str, float]:
    folder = Path(request.output)
    shapes = len(check_shapes(request.dims))
    check = CheckExportRequest(
        onnx=str(onnx_files.find_model(folder / kind)),
        expected=str(folder / "expected"),
        inputs=request.module.inputs,
        outputs=request.module.outputs,
        dims=request.dims,
        progress_before=export_steps(shapes) - shapes,
    )
    return call_in_child(
        "tasks.onnx_check:check_export",
        check,
        CheckExportReply,
        folder,
        time_limit_s=bench.time_limit_s,
        on_progress=bench.on_progress,
    ).checks


def export_steps(shapes: int) -> int:
    """Steps that progress counts: load, export and simplify; then each shape in torch and in ONNX Runtime."""
    return 3 + 2 * shapes


def _stored(
    bench: Workbench,
    request: ExportRequest,
    folder: Path,
    checks: dict[str, float],
    reply: ExportReply,
    simplifier: str,
) -> ExportedModel:
    return ExportedModel(
        onnx=bench.store.put(folder),
        opset=request.export.opset,
        checks=checks,
        recipe={
            "exporter": request.export.exporter,
            "torch": package_versions("torch")["torch"],
            "simplifier": simplifier,
            "dynamic_dims": reply.dynamic_dims,
        },
    )
