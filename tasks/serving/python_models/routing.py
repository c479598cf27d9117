"""Where requests go, as `route.json` says: which of them share a call, of which plan, and what each gets back.

It lies beside the router in Triton: NumPy and the standard library alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.backends import fitting
else:
    from . import fitting

Arrays = dict[str, np.ndarray[Any, Any]]
SCHEMA = 1
_NO_LIMIT = 1 << 40


class RequestError(ValueError):
    """A request that no plan takes, whatever comes beside it."""


@dataclass(frozen=True)
class Range:
    """What a plan takes of a dimension."""

    min: int
    max: int


@dataclass(frozen=True)
class RoutedInput:
    """An input: its axes, what pads it, and whether all samples of a call share its value."""

    shape: tuple[str | int, ...]
    pad: int | float
    shared: bool


@dataclass(frozen=True)
class Plan:
    """A plan: the name of the model that runs it, and what it takes of each dimension."""

    model: str
    dims: Mapping[str, Range]

    def size(self, extents: Mapping[str, int]) -> int:
        """The product of the extents that it computes with."""
        return prod(dim.max if fitting.is_fixed(dim) else extents[name] for name, dim in self.dims.items())


@dataclass(frozen=True)
class Request:
    """The inputs of one request, and the extents of its dimensions. `number` is its place among those of a call."""

    number: int
    arrays: Arrays
    extents: dict[str, int]


@dataclass(frozen=True)
class Group:
    """Requests that share a call of `plan`; `extents` are their largest, with the sum of their samples."""

    plan: Plan
    requests: tuple[Request, ...]
    extents: dict[str, int]


@dataclass(frozen=True)
class Route:
    """What `route.json` says."""

    model: str
    move: int
    batch: str
    inputs: dict[str, RoutedInput]
    outputs: dict[str, tuple[str | int, ...]]
    plans: tuple[Plan, ...]
    sampling: dict[str, Any] | None
    rollout: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Route:
        """Read the file.

        Raises:
            ValueError: it is of another schema, or no such file.
            OSError: it cannot be read.
        """
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("schema_version") != SCHEMA:
            raise ValueError(
                f"{path.name}: schema_version {found.get('schema_version')}, and this router reads {SCHEMA};"
                " pull the model again"
            )
        return cls(
            model=found["model"],
            move=found["move"],
            batch=found["batch"],
            inputs=_inputs(found),
            outputs=_outputs(found),
            plans=_plans(found),
            sampling=found.get("sampling"),
            rollout=found.get("rollout"),
        )

    def to(self, engine: Mapping[str, Any]) -> Route:
        """The same route to another engine, which `engine` describes as `route.json` does the first."""
        inputs, outputs, plans = _inputs(engine), _outputs(engine), _plans(engine)
        return replace(self, inputs=inputs, outputs=outputs, plans=plans, sampling=None, rollout=None)

    def request(self, number: int, arrays: Arrays) -> Request:
        """Look at a request.

        Raises:
            RequestError: saying which extent is outside, and what is allowed.
        """
        extents: dict[str, int] = {}
        for name, spec in self.inputs.items():
            found = arrays[name].shape
            if len(found) != len(spec.shape):
                raise RequestError(f"input {name} has shape {list(found)}, and the model takes {list(spec.shape)}")
            for axis, extent in zip(spec.shape, found, strict=True):
                if extents.setdefault(axis, extent) != extent if isinstance(axis, str) else axis != extent:
                    wanted = f"{extents[axis]}, as other inputs have" if isinstance(axis, str) else str(axis)
                    raise RequestError(
                        f"input {name} has shape {list(found)}: {axis} is {extent}, and must be {wanted}"
                    )
        for name, extent in extents.items():
            low, high = self._allowed(name)
            if not (1 if name == self.batch else low) <= extent <= high:
                raise RequestError(f"{name} is {extent}, and model {self.model} takes {low} to {high}")
        return Request(number, arrays, extents)

    def _allowed(self, name: str) -> tuple[int, int]:
        dims = [plan.dims[name] for plan in self.plans]
        return min(1 if fitting.is_fixed(dim) else dim.min for dim in dims), max(dim.max for dim in dims)

    def groups(self, requests: Sequence[Request]) -> tuple[list[Group], dict[int, str]]:
        """The calls to make, and by number of a request why none takes it.

        Requests share a call where they agree in what no plan fixes, and where padding them together computes no more
        than calling them apart.
        """
        alike: dict[object, list[Request]] = {}
        for one in requests:
            alike.setdefault(self._must_agree(one), []).append(one)
        groups: list[Group] = []
        problems: dict[int, str] = {}
        for members in alike.values():
            last: Group | None = None
            for one in sorted(members, key=lambda request: prod(request.extents.values()), reverse=True):
                joined = self._joined(last, one)
                if last is not None and joined is not None:
                    groups[-1] = last = joined
                elif isinstance(alone := self._group((one,)), Group):
                    last = alone
                    groups.append(alone)
                else:
                    problems[one.number] = alone
        return groups, problems

    def _must_agree(self, request: Request) -> object:
        ranges = [
            (name, extent)
            for name, extent in request.extents.items()
            if name != self.batch and not all(fitting.is_fixed(plan.dims[name]) for plan in self.plans)
        ]
        shared = [request.arrays[name][:1].tobytes() for name, spec in self.inputs.items() if spec.shared]
        return *ranges, *shared

    def _joined(self, group: Group | None, request: Request) -> Group | None:
        """The group with one more request; None where that computes more than a call of its own, or is impossible."""
        joined = self._group((*group.requests, request)) if group is not None else None
        if group is None or not isinstance(joined, Group):
            return None
        alone = self._group((request,))
        apart = group.plan.size(group.extents) + (
            alone.plan.size(alone.extents) if isinstance(alone, Group) else _NO_LIMIT
        )
        return joined if joined.plan.size(joined.extents) <= apart else None

    def _group(self, requests: tuple[Request, ...]) -> Group | str:
        extents = dict(requests[0].extents)
        for one in requests[1:]:
            for name, extent in one.extents.items():
                extents[name] = extents[name] + extent if name == self.batch else max(extents[name], extent)
        try:
            return Group(fitting.choose_profile(self.plans, extents), requests, extents)
        except fitting.FitError as error:
            return str(error)

    def feeds(self, group: Group) -> Arrays:
        """What the group's plan is called with."""
        if len(group.requests) == 1:
            return fitting.pad_inputs(group.requests[0].arrays, self.inputs, group.plan)
        any_batch = replace(group.plan, dims={**group.plan.dims, self.batch: Range(1, _NO_LIMIT)})
        parts = [fitting.pad_inputs(one.arrays, self.inputs, any_batch) for one in group.requests]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.inputs}
        return fitting.pad_inputs(joined, self.inputs, group.plan)

    def split(self, group: Group, outputs: Arrays) -> list[Arrays]:
        """The outputs of each request of a group, without what came of padding."""
        found, first = [], 0
        for one in group.requests:
            rows = slice(first, first + one.extents[self.batch])
            first = rows.stop
            found.append(
                {
                    name: np.ascontiguousarray(fitting.cut_output(outputs[name][rows], axes, one.extents))
                    for name, axes in self.outputs.items()
                }
            )
        return found


def _inputs(engine: Mapping[str, Any]) -> dict[str, RoutedInput]:
    return {
        name: RoutedInput(tuple(one["shape"]), one.get("pad", 0), one.get("shared", False))
        for name, one in engine["inputs"].items()
    }


def _outputs(engine: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
    return {name: tuple(one["axes"]) for name, one in engine["outputs"].items()}


def _plans(engine: Mapping[str, Any]) -> tuple[Plan, ...]:
    return tuple(
        Plan(one["model"], {name: Range(dim["min"], dim["max"]) for name, dim in one["dims"].items()})
        for one in engine["plans"]
    )
