"""Stage 1, second half: the outputs of the PyTorch FP32 module on the validation data, in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifact import Artifact
from tasks.model.settled import require_kinds
from tasks.records import DataArtifact, ReferenceArtifact
from tasks.samples.npz import load_arrays, shard_paths
from tasks.store.digests import artifact_digest
from tasks.store.stage_cache import StageResult, run_cached
from tasks.torch_side.interface import ReferenceRequest
from tasks.torch_side.module_source import call_with_module, lay_out, module_key

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext
    from tasks.specs import ModelSpec

RECIPE = 2


def run_reference(
    context: StageContext, directory: ModelDirectory, data: DataArtifact
) -> StageResult[ReferenceArtifact]:
    """Run the module of `directory` in float32 over `data`, in batches of the batch dimension's opt.

    The outputs are `{index:05d}.npz` as the inputs are: one array per output, first axis the samples, float32 but where
    the module gives whole numbers, or true and false.

    Raises:
        InputError: source, weights or outputs are at fault; or an output holds NaN or Inf (output, shard and
            sample are named), or is not of its declared kind.
    """
    spec = directory.spec
    module = module_key(directory)
    batch = spec.dims[spec.batch_dim]
    key: dict[str, object] = {
        "recipe": RECIPE,
        "module": module,
        "data": data.inputs.digest,
        "batch": batch.model_dump(),
    }

    def produce(folder: Path) -> ReferenceArtifact:
        outputs = folder / "outputs"
        outputs.mkdir()
        request = ReferenceRequest(
            module=lay_out(directory, folder, module),
            shards=context.store.fetch(data.inputs, folder / "shards"),
            output=outputs,
        )
        call_with_module(context, "tasks.torch_side.torch_outputs:run", request, int, folder, source=str(spec.source))
        return ReferenceArtifact(outputs=context.store.put(outputs))

    made = run_cached(context.store, "reference", key, ReferenceArtifact, produce)
    _require_kinds(context, spec, made.result)  # kinds are no part of the key
    return made


def _require_kinds(context: StageContext, spec: ModelSpec, reference: ReferenceArtifact) -> None:
    first = reference.outputs.files[:1]
    with context.store.scratch() as folder:
        fetched = context.store.fetch(Artifact(digest=artifact_digest(first), files=first), folder / "first")
        require_kinds(load_arrays(shard_paths(fetched)[0]), spec)
