"""`route.json`: what the router reads to find the models that serve an engine now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tasks.declared import Digest, Frozen
from tasks.errors import RefusedError

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


class Canary(Frozen):
    """The engine that a rollout tries beside the one that is served."""

    engine_id: str
    manifest: Digest
    inputs: dict[str, RoutedInput]
    outputs: dict[str, RoutedOutput]
    plans: tuple[RoutedPlan, ...]


class RoutedRollout(Frozen):
    """A rollout as this host follows it, at the number `step` of its history.

    `weight` is the percent of requests that the canary answers; `mirror` and `noise` are the shares of production's
    that the canary, and production itself, are asked too. `key` names the parameter that says who asks, `slices` those
    that are kept with pairs. Pairs and counts go to `folder` every `shard_s` seconds, with the inputs in `keep_inputs`
    alone. The canary may take `timeout_ms` for a call. `arm` is the parameter by which a splitter outside says who
    answers; None where the router splits.
    """

    id: str
    step: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(ge=0, le=100)]
    mirror: Annotated[float, Field(ge=0, le=1)]
    noise: Annotated[float, Field(ge=0, le=1)]
    key: str | None
    slices: tuple[str, ...]
    folder: str
    shard_s: Annotated[float, Field(gt=0)] = 30.0
    timeout_ms: Annotated[float, Field(gt=0)]
    keep_inputs: tuple[str, ...]
    canary: Canary
    arm: str | None = None


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
    rollout: RoutedRollout | None = None

    @property
    def models(self) -> frozenset[str]:
        """The models of the repository that it leads to, the canary's among them."""
        canary = () if self.rollout is None else self.rollout.canary.plans
        return frozenset(plan.model for plan in (*self.plans, *canary))

    def following(self, rollout: RoutedRollout | None) -> Route:
        """The same route with another rollout, or none."""
        return self.model_copy(update={"rollout": rollout})

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


def canary_beside(production: Route, canary: Route) -> Canary:
    """The engine of the route `canary`, to answer in production's place.

    Raises:
        RefusedError: clients would see that it is another one: its inputs or outputs differ in name, dtype or axes.
    """
    faults = [
        *_differences("input", _interface(production.inputs), _interface(canary.inputs)),
        *_differences("output", _interface(production.outputs), _interface(canary.outputs)),
    ]
    if faults:
        raise RefusedError(
            f"{canary.engine_id} cannot answer in place of {production.engine_id}: {'; '.join(faults)}; serve it under"
            " another model's name"
        )
    return Canary(
        engine_id=canary.engine_id,
        manifest=canary.manifest,
        inputs=canary.inputs,
        outputs=canary.outputs,
        plans=canary.plans,
    )


def inputs_to_keep(route: Route) -> frozenset[str]:
    """The inputs that sampling may keep; none where it is off."""
    return frozenset() if route.sampling is None else frozenset(route.inputs) - frozenset(route.sampling["redacted"])


def _interface(tensors: Mapping[str, RoutedInput] | Mapping[str, RoutedOutput]) -> dict[str, str]:
    """Dtype and axes of each tensor, in words."""
    return {
        name: f"{one.dtype} {list(one.shape if isinstance(one, RoutedInput) else one.axes)}"
        for name, one in tensors.items()
    }


def _differences(what: str, first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    return [
        f"{what} {name} is {second.get(name, 'not there')}, and production's is {first.get(name, 'not there')}"
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    ]
