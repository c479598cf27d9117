"""Stage 1, last part: inputs that are in no file, what PyTorch gives on them, and whether the graph gives the same.

An engine that is right on the validation samples alone, by a table or by a branch that was taken while the module was
traced, would pass every check that is made on them. So the reference runs on inputs made for this, in a process that
exports nothing (`probe`), and the graph now and every engine later (`fresh_agreement`) is compared with that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.fresh_records import FreshArtifact
from tasks.graphs import onnx_files
from tasks.graphs.interface import CheckFreshRequest
from tasks.model.toolchain import package_versions
from tasks.stages.probe import ProbedModule, probe_module
from tasks.store.stage_cache import StageResult, run_cached
from tasks.torch_side.module_source import module_key

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, ExportedModel
    from tasks.specs import ModelSpec

RECIPE = 1


def run_fresh(
    context: StageContext, directory: ModelDirectory, data: DataArtifact, exported: ExportedModel
) -> StageResult[FreshArtifact]:
    """Check the graph on inputs that are in no file, made of `data`, with what the module gave on them (`probe`).

    Raises:
        InputError: source or weights are at fault, the module takes none of the inputs, or it is not a function of
            them: it gives others when it is called again.
        StageError: the exported graph does not agree with the module on them.
    """
    spec = directory.spec
    module = module_key(directory)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "module": module,
        "data": data.inputs.digest,
        "dims": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "onnx": exported.onnx.digest,
        "versions": package_versions("onnxruntime"),
    }

    def produce(folder: Path) -> FreshArtifact:
        probed = probe_module(context, directory, data).result
        return FreshArtifact(
            inputs=probed.inputs,
            outputs=probed.outputs,
            draws=probed.fresh.draws,
            samples=probed.fresh.samples,
            refused=probed.fresh.refused,
            difference=_check_graph(context, exported, probed, spec, folder),
        )

    return run_cached(context.store, "fresh", key, FreshArtifact, produce)


def _check_graph(
    context: StageContext, exported: ExportedModel, probed: ProbedModule, spec: ModelSpec, folder: Path
) -> float:
    check = CheckFreshRequest(
        onnx=onnx_files.fetched_model(context.store.fetch(exported.onnx, folder / "onnx")),
        inputs=context.store.fetch(probed.inputs, folder / "inputs"),
        outputs=context.store.fetch(probed.outputs, folder / "outputs"),
        labels=probed.fresh.labels,
        spec=spec,
    )
    return context.call_in_child("tasks.graphs.onnx_check:check_fresh", check, float, folder)
