"""Stage 3, on the target: typed ONNX to engine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tasks.backends import backend_of
from tasks.backends.compatibility import SHARED
from tasks.backends.interface import REFIT, BuildJob
from tasks.backends.timing_cache import forget_timings, timing_cache_path
from tasks.errors import StageError
from tasks.graphs.level import recorded_level
from tasks.graphs.onnx_files import short_reason
from tasks.records import BackendIdentity, BuiltEngine, EngineJob, TypedModel
from tasks.stages.again import discard_before
from tasks.stages.pinned_tactics import find_pinned
from tasks.stages.refit import Refit, structure_of, try_refit
from tasks.store.digests import digest_json
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.rebuild_records import Rebuild

RECIPE = 3


class BuildRequest(BuildJob):
    """What the child builds, and for which runtime."""

    runtime: str


def build_engine(context: StageContext, job: EngineJob, rebuild: Rebuild | None = None) -> StageResult[BuiltEngine]:
    """Build the engine of `job` on this host, in a child process.

    The tactics of a build under this key that passed the gate are chosen again where the runtime can be led to them.
    A `rebuild` is one after builds that were wrong: with nothing that they timed, and away from their tactics.

    Where the options allow a refit, and an engine passed whose graph differs by the values of its weights alone, those
    are put into its plan instead.

    Raises:
        InputError: the model cannot be built as model.yaml wants it.
        StageError: this host cannot build for the target, or the builder failed, crashed or took too long.
    """
    cell, spec = job.cell, job.spec
    backend = backend_of(cell.runtime)
    identity, options = backend.identity(), backend.options(spec.build, cell.precision)
    typed = job.typed.half if job.typed.half is not None and backend.takes_types() else job.typed
    key = _key(job, typed, identity, options, rebuild)
    was_discarded = discard_before(context, job, "build", key)

    def produce(folder: Path) -> BuiltEngine:
        for name in ("plan", "tactics"):
            (folder / name).mkdir()
        request = _request(context, job, typed, identity, folder)
        structure = structure_of(context, request, key, folder) if REFIT in options else None
        made = _refit_or_build(context, job, request, structure, typed, rebuild, digest_json(key), folder)
        plan = context.store.put(folder / "plan")
        chose = any((folder / "tactics").iterdir())
        return BuiltEngine(
            plan=plan,
            backend=identity,
            options={**options, **recorded_level(plan)},
            profiles=backend.profiles(spec.dims),
            cache_key=digest_json(key),
            onnx=typed.onnx.digest,
            warnings=made.warnings,
            tactics=context.store.put(folder / "tactics") if chose else None,
            again=job.again if was_discarded else None,
            structure=structure,
            refitted_from=made.base,
        )

    built = run_cached(context.store, "build", key, BuiltEngine, produce)
    for warning in built.result.warnings:
        context.on_warning(warning)
    return built


def _key(
    job: EngineJob, typed: TypedModel, identity: BackendIdentity, options: dict[str, str], rebuild: Rebuild | None
) -> dict[str, object]:
    return {
        "recipe": RECIPE,
        "onnx": typed.onnx.digest,
        "precision": [job.cell.precision.value, typed.recipe],
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in job.spec.inputs.items()},
        "profiles": {name: dim.model_dump(mode="json") for name, dim in job.spec.dims.items()},
        "options": options,
        "plugins": None if job.plugins is None else [[file.path, file.digest] for file in job.plugins.files],
        **_place(job.cell.target, identity, options),
        **({} if rebuild is None else {"rebuild": _rebuild_key(rebuild)}),
    }


def _place(target: str, identity: BackendIdentity, options: dict[str, str]) -> dict[str, object]:
    """What the key says of where an engine is built: of one that is shared, not which GPU of its capability it was."""
    backend = identity.model_dump()
    if SHARED not in options:
        return {"backend": backend, "target": target}
    return {"backend": {name: value for name, value in backend.items() if name not in {"device", "mig"}}}


def _request(
    context: StageContext, job: EngineJob, typed: TypedModel, identity: BackendIdentity, folder: Path
) -> BuildRequest:
    onnx = context.store.fetch(typed.onnx, folder / "onnx")
    plugins: tuple[Path, ...] = ()
    if job.plugins is not None:
        libraries = context.store.fetch(job.plugins, folder / "plugins")
        plugins = tuple(libraries / file.path for file in job.plugins.files)
    cache = context.timing_caches
    return BuildRequest(
        runtime=job.cell.runtime,
        precision=job.cell.precision,
        onnx=next(onnx.glob("*.onnx")),
        plan=folder / "plan",
        inputs=job.spec.inputs,
        dims=job.spec.dims,
        settings=job.spec.build,
        plugins=plugins,
        timing_cache=None if cache is None else timing_cache_path(cache, identity),
        tactics=folder / "tactics",
    )


def _built(context: StageContext, request: BuildRequest, folder: Path) -> tuple[str, ...]:
    """Build, once more in another way where the backend knows one; return warnings."""

    def build() -> tuple[str, ...]:
        return context.call_in_child("tasks.stages.build:build_in_child", request, tuple[str, ...], folder)

    try:
        return build()
    except StageError as first:
        otherwise = backend_of(request.runtime).try_otherwise(request)
        if otherwise is None:
            raise
        shutil.rmtree(request.plan)
        request.plan.mkdir()
        try:
            warnings = build()
        except StageError:
            raise first from None
        return (f"it is {otherwise}, wherever it is served; otherwise, {short_reason(first)}", *warnings)


def _refit_or_build(
    context: StageContext,
    job: EngineJob,
    request: BuildRequest,
    structure: str | None,
    typed: TypedModel,
    rebuild: Rebuild | None,
    key: str,
    folder: Path,
) -> Refit:
    """Refit where there is an engine for it, and else build; what is made once more is not to be as it was."""
    made = Refit()
    if structure is not None and rebuild is None and job.again is None:
        made = try_refit(context, request, request.runtime, structure, typed.onnx.digest, folder)
    if made.base is not None:
        return made
    request = request.model_copy(update=_choice(context, folder, request, key, rebuild))
    return Refit(warnings=(*made.warnings, *_built(context, request, folder)))


def _rebuild_key(rebuild: Rebuild) -> dict[str, object]:
    return {"attempt": rebuild.attempt, "avoid": [artifact.digest for artifact in rebuild.avoid]}


def _choice(
    context: StageContext, folder: Path, request: BuildRequest, key: str, rebuild: Rebuild | None
) -> dict[str, object]:
    """What leads a build to its tactics, as changes of the request: this host's timings do not, beside anything else.

    What a build that was wrong has timed leads other engines to the same kernels, so that it is thrown away.
    """
    if rebuild is not None:
        if request.timing_cache is not None:
            forget_timings(request.timing_cache)
        folders = [folder / f"avoid{number}" for number in range(len(rebuild.avoid))]
        fetched = map(context.store.fetch, rebuild.avoid, folders)
        return {"timing_cache": None, "avoid": tuple(fetched)}
    pinned = find_pinned(context.store, key)
    if pinned is None:
        return {}
    return {"timing_cache": None, "pinned": context.store.fetch(pinned, folder / "pinned")}


def build_in_child(raw: dict[str, Any], progress: Callable[[int, int], None]) -> tuple[str, ...]:
    """Child entry: serve a BuildRequest; return the backend's warnings."""
    request = BuildRequest.model_validate(raw)
    return backend_of(request.runtime).build(request, progress)
