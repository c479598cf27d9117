"""Stage 3, on the target: typed ONNX to engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.backends import backend_for
from tasks.child import call_in_child
from tasks.digests import digest_json
from tasks.memo import Remembered, remember
from tasks.specs import BuiltEngine, Dim, Frozen, InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.specs import Cell, ModelSpec, TypedModel
    from tasks.workbench import Workbench

RECIPE = 1


class BuildRequest(Frozen):
    """What the child builds, and where; paths are of this host."""

    target: str
    onnx: str
    plan: str
    inputs: dict[str, InputSpec]
    dims: dict[str, Dim]


class BuildReply(Frozen):
    """The engine is in the folder that the request named."""


def build_engine(bench: Workbench, spec: ModelSpec, typed: TypedModel, cell: Cell) -> Remembered[BuiltEngine]:
    """Build the engine of `cell` on this host, in a child process.

    Raises:
        StageError: this host cannot build for the target, or the builder failed or crashed.
    """
    backend = backend_for(cell.target)
    identity, options = backend.identity(), backend.options()
    key: dict[str, object] = {
        "recipe": RECIPE,
        "onnx": typed.onnx.digest,
        "precision": typed.recipe,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "profiles": {name: dim.model_dump() for name, dim in spec.dims.items()},
        "options": options,
        "backend": identity.model_dump(),
        "target": cell.target,
    }

    def produce() -> BuiltEngine:
        with bench.store.scratch() as folder:
            (folder / "plan").mkdir()
            onnx = bench.store.fetch(typed.onnx, folder / "onnx")
            request = BuildRequest(
                target=cell.target,
                onnx=str(next(onnx.glob("*.onnx"))),
                plan=str(folder / "plan"),
                inputs=spec.inputs,
                dims=spec.dims,
            )
            call_in_child("tasks.build:build_in_child", request, BuildReply, folder, time_limit_s=bench.time_limit_s)
            plan = bench.store.put(folder / "plan")
        return BuiltEngine(plan=plan, backend=identity, options=options, cache_key=digest_json(key))

    return remember(bench.store, "build", key, BuiltEngine, produce)


def build_in_child(payload: dict[str, Any], _progress: Callable[[int, int], None]) -> BuildReply:
    """Child entry: build as the request says."""
    request = BuildRequest.model_validate(payload)
    backend_for(request.target).build(Path(request.onnx), Path(request.plan), request.inputs, request.dims)
    return BuildReply()
