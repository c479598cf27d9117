"""Stage 3, on the target: typed ONNX to engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.backends import backend_for
from tasks.backends.interface import BuildJob
from tasks.backends.timing_cache import timing_cache_path
from tasks.process.child import call_in_child
from tasks.records import BuiltEngine
from tasks.specs import BuildSpec, Dim, Frozen, InputSpec, Precision
from tasks.store.digests import digest_json
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.process.context import StageContext
    from tasks.records import BackendIdentity, EngineJob

RECIPE = 3


class BuildRequest(Frozen):
    """What the child builds, and where; paths are of this host."""

    target: str
    precision: Precision
    onnx: str
    plan: str
    inputs: dict[str, InputSpec]
    dims: dict[str, Dim]
    settings: BuildSpec
    plugins: tuple[str, ...]
    timing_cache: str | None


class BuildReply(Frozen):
    """The engine is in the folder that the request named."""

    warnings: tuple[str, ...] = ()


def build_engine(context: StageContext, job: EngineJob) -> StageResult[BuiltEngine]:
    """Build the engine of `job` on this host, in a child process.

    Raises:
        InputError: the model cannot be built as model.yaml wants it.
        StageError: this host cannot build for the target, or the builder failed, crashed or took too long.
    """
    cell, spec = job.cell, job.spec
    backend = backend_for(cell.target)
    identity, options = backend.identity(), backend.options(spec.build)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "onnx": job.typed.onnx.digest,
        "precision": [cell.precision.value, job.typed.recipe],
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "profiles": {name: dim.model_dump(mode="json") for name, dim in spec.dims.items()},
        "options": options,
        "plugins": None if job.plugins is None else [[file.path, file.digest] for file in job.plugins.files],
        "backend": identity.model_dump(),
        "target": cell.target,
    }

    def produce() -> BuiltEngine:
        with context.store.scratch() as folder:
            (folder / "plan").mkdir()
            request = _request(context, job, identity, folder)
            reply = call_in_child(
                "tasks.stages.build:build_in_child",
                request,
                BuildReply,
                folder,
                time_limit_s=context.time_limit_s,
                on_progress=context.on_progress,
            )
            for warning in reply.warnings:
                context.on_warning(warning)
            plan = context.store.put(folder / "plan")
        return BuiltEngine(
            plan=plan,
            backend=identity,
            options=options,
            profiles=backend.profiles(spec.dims),
            cache_key=digest_json(key),
        )

    return run_cached(context.store, "build", key, BuiltEngine, produce)


def _request(context: StageContext, job: EngineJob, identity: BackendIdentity, folder: Path) -> BuildRequest:
    onnx = context.store.fetch(job.typed.onnx, folder / "onnx")
    plugins: tuple[str, ...] = ()
    if job.plugins is not None:
        libraries = context.store.fetch(job.plugins, folder / "plugins")
        plugins = tuple(str(libraries / file.path) for file in job.plugins.files)
    cache = context.timing_caches
    return BuildRequest(
        target=job.cell.target,
        precision=job.cell.precision,
        onnx=str(next(onnx.glob("*.onnx"))),
        plan=str(folder / "plan"),
        inputs=job.spec.inputs,
        dims=job.spec.dims,
        settings=job.spec.build,
        plugins=plugins,
        timing_cache=None if cache is None else str(timing_cache_path(cache, identity)),
    )


def build_in_child(payload: dict[str, Any], progress: Callable[[int, int], None]) -> BuildReply:
    """Child entry: build as the request says."""
    request = BuildRequest.model_validate(payload)
    job = BuildJob(
        onnx=Path(request.onnx),
        plan=Path(request.plan),
        precision=request.precision,
        inputs=request.inputs,
        dims=request.dims,
        settings=request.settings,
        plugins=tuple(Path(path) for path in request.plugins),
        timing_cache=None if request.timing_cache is None else Path(request.timing_cache),
    )
    return BuildReply(warnings=backend_for(request.target).build(job, progress))
