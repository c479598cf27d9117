"""The models of a Triton repository that serve one engine, as files that are yet to be written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends.profiles import profiles_of
from tasks.errors import InputError, RefusedError
from tasks.samples.feeds import make_feeds
from tasks.serving.engine_io import read_outputs
from tasks.serving.python_models import ENGINE_FILES, ROUTER_FILES
from tasks.serving.route import route_to
from tasks.serving.triton_config import WarmUp, engine_config, router_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.declared import Dim
    from tasks.records import EngineManifest
    from tasks.serving.engine_io import OutputTensor
    from tasks.serving.route import Route

    Content = bytes | Path
    Files = dict[str, Content]

CONFIG = "config.pbtxt"
_DIGEST_CHARACTERS = 8
# TensorRT has no float64 and no int16; before 10, int64 becomes int32 in its plans, which Triton does not convert.
_NEVER, _FROM_10 = {"float64", "int16"}, {"int64", "uint8"}
_FIRST_WITH_INT64 = 10


@dataclass(frozen=True)
class EngineLayout:
    """Files by model and by path in the model's folder: those of the engine's models, and of the router.

    A file is its content, or the path of a file to link. `route` leads to these models.
    """

    engines: Mapping[str, Files]
    router: Files
    route: Route


@dataclass(frozen=True)
class PlacedEngine:
    """An engine on this host: its manifest with its digest, the number of the move to it, and its verified folder."""

    manifest: EngineManifest
    digest: str
    move: int
    folder: Path

    @property
    def name(self) -> str:
        """`<model>--<move>-<beginning of the manifest's digest>`: the name of its model in the repository."""
        short = self.digest.removeprefix("sha256:")[:_DIGEST_CHARACTERS]
        return f"{self.manifest.cell.model}--{self.move}-{short}"

    @property
    def traffic(self) -> Path:
        """Where its router keeps samples of the traffic, where the model asks for some."""
        return self.folder.parent / "traffic"


def why_not_tensorrt(manifest: EngineManifest) -> str | None:
    """Why Triton's TensorRT backend cannot serve an engine whatever the server has; None where it may."""
    if manifest.backend.name != "tensorrt":
        return f"it is an engine of {manifest.backend.name}"
    old = int(manifest.backend.version.partition(".")[0]) < _FIRST_WITH_INT64
    lacking = _NEVER | (_FROM_10 if old else set())
    for name, spec in manifest.inputs.items():
        if spec.dtype in lacking:
            return f"input {name} is {spec.dtype}, which plans of TensorRT {manifest.backend.version} do not take"
    return None


def lay_out_engine(engine: PlacedEngine, backend: str) -> EngineLayout:
    """The models that serve an engine by one of Triton's backends, `tensorrt` or `python`.

    Raises:
        RefusedError: see `read_outputs`; or that backend cannot serve it.
    """
    outputs = read_outputs(engine.manifest, engine.folder)
    if backend == "tensorrt":
        reason = why_not_tensorrt(engine.manifest)
        if reason is not None:
            raise RefusedError(
                f"{engine.manifest.engine_id} cannot be served by Triton's backend tensorrt: {reason}; set"
                " serving.backend to python or auto"
            )
        models, dims = _plan_models(engine, outputs)
    else:
        models, dims = _python_model(engine, outputs)
    route = route_to(engine.manifest, engine.digest, engine.move, outputs, dims, engine.traffic)
    router: Files = {CONFIG: router_config(engine.manifest, outputs).encode(), **router_files()}
    return EngineLayout(models, router, route)


def router_files() -> Files:
    """The router's code, as it is packaged."""
    return {f"1/{name}": path.read_bytes() for name, path in ROUTER_FILES.items()}


def _plan_models(
    engine: PlacedEngine, outputs: Mapping[str, OutputTensor]
) -> tuple[dict[str, Files], dict[str, Mapping[str, Dim]]]:
    """A model for each plan."""
    models: dict[str, Files] = {}
    extents: dict[str, Mapping[str, Dim]] = {}
    for profile in engine.manifest.profiles:
        name = f"{engine.name}--{PurePosixPath(profile.file).stem}"
        warm_ups, data = _warm_ups(engine, [profile.dims])
        config = engine_config(
            name,
            engine.manifest,
            outputs,
            dims=profile.dims,
            backend="tensorrt",
            parameters={},
            warm_ups=warm_ups,
        )
        models[name] = {CONFIG: config.encode(), "1/model.plan": engine.folder / "plan" / profile.file, **data}
        extents[name] = profile.dims
    return models, extents


def _python_model(
    engine: PlacedEngine, outputs: Mapping[str, OutputTensor]
) -> tuple[dict[str, Files], dict[str, Mapping[str, Dim]]]:
    """One model for all plans, among which the runner chooses."""
    manifest = engine.manifest
    dims = {name: dim.without_buckets() for name, dim in manifest.dims.items()}
    warm_ups, data = _warm_ups(engine, _warmed(manifest))
    config = engine_config(
        engine.name,
        manifest,
        outputs,
        dims=dims,
        backend="python",
        parameters={"runtime": manifest.cell.runtime, "plan": str((engine.folder / "plan").absolute())},
        warm_ups=warm_ups,
    )
    code = {f"1/{name}": path.read_bytes() for name, path in ENGINE_FILES.items()}
    return {engine.name: {CONFIG: config.encode(), **code, **data}}, {engine.name: dims}


def _warmed(manifest: EngineManifest) -> list[Mapping[str, Dim]]:
    """The dims of each call of a warm-up: one a bucket, whatever the runtime makes of buckets."""
    try:
        profiles = profiles_of(manifest.dims)
    except InputError:  # more combinations than are warmed
        profiles = manifest.profiles
    return [profile.dims for profile in profiles]


def _warm_ups(engine: PlacedEngine, plans: Iterable[Mapping[str, Dim]]) -> tuple[list[WarmUp], Files]:
    """A call for each plan, of inputs cut and tiled from the smoke samples, and the files that hold them."""
    if not engine.manifest.serving.warmup:
        return [], {}
    warm_ups: list[WarmUp] = []
    files: Files = {}
    for dims in plans:
        extents = {name: dim.opt for name, dim in dims.items()}
        name = "-".join(f"{dim}{extent}" for dim, extent in extents.items())
        feeds = make_feeds(engine.folder / "smoke" / "inputs", engine.manifest.inputs, extents)
        inputs = {each: (array.shape, array.dtype.name, f"{name}-{each}") for each, array in feeds.items()}
        warm_ups.append(WarmUp(name, inputs))
        files |= {f"warmup/{name}-{each}": _raw(array) for each, array in feeds.items()}
    return warm_ups, files


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    """The elements as Triton reads them: row by row, little-endian."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
