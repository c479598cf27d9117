"""Before the export: does the module run at every shape that dims promise, and give the same when called again?

One child loads the module once, and has it run at the corners of dims and between, on inputs that are in no file
(which `fresh` then checks the graph with), and on some validation samples, whose outputs `tasks.checks` looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifact import Artifact
from tasks.declared import Frozen
from tasks.errors import InputError
from tasks.model.settled import Settled, settle_outputs
from tasks.samples.npz import load_arrays, shard_paths
from tasks.stages.export import fetch_some
from tasks.store.stage_cache import StageResult, run_cached
from tasks.torch_side.interface import FreshReply, FreshRequest, ProbeReply, ProbeRequest
from tasks.torch_side.module_source import call_with_module, lay_out, module_key

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact

RECIPE = 1


class ProbedModule(Frozen):
    """What a module gave: at which `shapes` it ran, and for which there was no time.

    `inputs` are fresh ones, `outputs` the module's on them, and `fresh` says how they were made. `seen` holds its
    outputs on a few validation samples, with `mask.<input>` beside where an output has a mask. `settled` is what
    its outputs tell that model.yaml leaves open.
    """

    shapes: tuple[str, ...]
    untried: tuple[str, ...]
    inputs: Artifact
    outputs: Artifact
    fresh: FreshReply
    seen: Artifact
    settled: Settled = Settled()


class ProbeError(InputError):
    """What is wrong with a module, a line each; `seen` are its outputs on samples, None where it gave none."""

    def __init__(self, message: str, seen: Artifact | None) -> None:
        super().__init__(message)
        self.seen = seen


def probe_module(context: StageContext, directory: ModelDirectory, data: DataArtifact) -> StageResult[ProbedModule]:
    """Run the module of `directory` wherever it promises to run, before it is exported.

    Raises:
        InputError: source or weights are at fault.
        ProbeError: forward raises at a shape, the module takes no other inputs than the samples, or it gives other
            outputs when it is called again; all of it at once.
    """
    module = module_key(directory)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "module": module,
        "data": data.inputs.digest,
        "dims": {name: dim.model_dump() for name, dim in directory.spec.dims.items()},
        # Kinds and axes too: what is settled of an output is settled of what was declared then.
        "outputs": {name: output.model_dump(mode="json") for name, output in directory.spec.outputs.items()},
    }

    def produce(folder: Path) -> ProbedModule:
        for name in ("inputs", "outputs", "seen"):
            (folder / name).mkdir()
        laid_out = lay_out(directory, folder, module)
        fresh = FreshRequest(
            module=laid_out,
            samples=fetch_some(context, data, folder / "samples"),
            inputs=folder / "inputs",
            outputs=folder / "outputs",
        )
        reply = _ask(context, directory, ProbeRequest(module=laid_out, fresh=fresh, seen=folder / "seen"), folder)
        shards = shard_paths(folder / "seen") if any((folder / "seen").iterdir()) else []
        settled = settle_outputs(directory.spec, load_arrays(shards[0]), reply.class_counts) if shards else Settled()
        seen = context.store.put(folder / "seen") if shards else None
        if reply.problems or reply.fresh is None or seen is None:
            raise ProbeError("\n".join(reply.problems), seen)
        return ProbedModule(
            shapes=reply.shapes,
            untried=reply.untried,
            inputs=context.store.put(fresh.inputs),
            outputs=context.store.put(fresh.outputs),
            fresh=reply.fresh,
            seen=seen,
            settled=settled,
        )

    return run_cached(context.store, "probe", key, ProbedModule, produce)


def load_alone(context: StageContext, directory: ModelDirectory) -> None:
    """Load the module, where there are no data that it could be run on.

    Raises:
        InputError: source or weights are at fault, or its parameters are not the declared inputs.
    """
    with context.store.scratch() as folder:
        laid_out = lay_out(directory, folder, module_key(directory))
        _ask(context, directory, ProbeRequest(module=laid_out, fresh=None, seen=folder), folder)


def _ask(context: StageContext, directory: ModelDirectory, request: ProbeRequest, folder: Path) -> ProbeReply:
    entry, source = "tasks.torch_side.torch_probe:probe", str(directory.spec.source)
    return call_with_module(context, entry, request, ProbeReply, folder, source=source)
