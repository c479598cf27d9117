"""`route.json`: what the router reads to find the models that serve an engine now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tasks.declared import Digest, Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.declared import Dim
    from tasks.records import EngineManifest
    from tasks.serving.engine_io import OutputTensor

ROUTE = "route.json"


class Extents(Frozen):
    """The least and the largest extent of a dimension that a plan takes."""

    min: int
    max: int


class RoutedInput(Frozen):
    """An input of the model: per axis a dimension's name or an extent, what pads it, and whether samples share it."""

    dtype: str
    shape: tuple[str | int, ...]
    pad: int | float
    shared: bool


class RoutedOutput(Frozen):
    """An output of the model; its axes are names of dimensions where they vary."""

    dtype: str
    axes: tuple[str | int, ...]


class RoutedPlan(Frozen):
    """A model of the repository, and the extents that it takes of each dimension."""

    model: str
    dims: dict[str, Extents]


class Route(Frozen):
    """The engine that is served, by its channel's move, and its plans in the order in which they are tried."""

    schema_version: Literal[1] = 1
    model: str
    move: int
    engine_id: str
    manifest: Digest
    batch: str
    inputs: dict[str, RoutedInput]
    outputs: dict[str, RoutedOutput]
    plans: tuple[RoutedPlan, ...]
    sampling: Any = None

    @property
    def words(self) -> str:
        """Which move and engine it is."""
        return f"move {self.move}, {self.engine_id}"


def route_to(
    manifest: EngineManifest,
    digest: str,
    move: int,
    outputs: Mapping[str, OutputTensor],
    plans: Mapping[str, Mapping[str, Dim]],
    traffic: Path,
) -> Route:
    """The route to an engine; `plans` are the dims of each of its models, `traffic` where samples are kept, if any."""
    sampling = manifest.serving.sampling
    return Route(
        model=manifest.cell.model,
        move=move,
        engine_id=manifest.engine_id,
        manifest=digest,
        batch=str(next(iter(manifest.inputs.values())).shape[0]),
        inputs={
            name: RoutedInput(dtype=spec.dtype, shape=spec.shape, pad=spec.pad, shared=spec.is_shared)
            for name, spec in manifest.inputs.items()
        },
        outputs={name: RoutedOutput(dtype=output.dtype, axes=output.axes) for name, output in outputs.items()},
        plans=tuple(
            RoutedPlan(model=model, dims={name: Extents(min=dim.min, max=dim.max) for name, dim in dims.items()})
            for model, dims in plans.items()
        ),
        sampling=None if sampling is None else sampling.for_route(manifest.inputs, str(traffic.absolute())),
    )
