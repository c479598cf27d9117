"""Stage 1, second half: the outputs of the PyTorch FP32 module on the validation data, in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.memo import Remembered, remember
from tasks.module_source import ModuleRequest, call_with_module, lay_out, module_key
from tasks.records import ReferenceArtifact
from tasks.specs import Dim, Frozen

if TYPE_CHECKING:
    from tasks.model_directory import ModelDirectory
    from tasks.records import DataArtifact
    from tasks.workbench import Workbench

RECIPE = 2


class ReferenceRequest(Frozen):
    """The module, the shards it runs on and where its outputs go; paths are of this host."""

    module: ModuleRequest
    batch: Dim
    shards: str
    output: str


class ReferenceReply(Frozen):
    """How many samples the module ran on."""

    samples: int


def run_reference(bench: Workbench, directory: ModelDirectory, data: DataArtifact) -> Remembered[ReferenceArtifact]:
    """Run the module of `directory` in float32 over `data`, in batches of the batch dimension's opt.

    The outputs are `{index:05d}.npz` as the inputs are: one float32 array per output, first axis the samples.

    Raises:
        InputError: source, weights or outputs are at fault; or an output holds NaN or Inf (output, shard and
            sample are named).
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

    def produce() -> ReferenceArtifact:
        with bench.store.scratch() as folder:
            outputs = folder / "outputs"
            outputs.mkdir()
            request = ReferenceRequest(
                module=lay_out(directory, folder, module),
                batch=batch,
                shards=str(bench.store.fetch(data.inputs, folder / "shards")),
                output=str(outputs),
            )
            call_with_module(
                "tasks.torch_outputs:run",
                request,
                ReferenceReply,
                folder,
                source=spec.source,
                time_limit_s=bench.time_limit_s,
                on_progress=bench.on_progress,
                memory_limit_bytes=bench.memory_limit_bytes,
            )
            return ReferenceArtifact(outputs=bench.store.put(outputs))

    return remember(bench.store, "reference", key, ReferenceArtifact, produce)
