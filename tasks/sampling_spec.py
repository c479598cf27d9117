"""`serving.sampling` of model.yaml: what is kept of a served model's traffic. Without it, nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.declared import Declared, InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=64)]


class SamplingSpec(Declared):
    """Which live requests a router keeps, as samples in the format of validation data.

    `rate` is the share of samples that may be kept, `most_a_day` bounds them on a host (UTC). Every `every_hours` a
    shard is written, of the part of `most_a_day` that falls to such a period; what was not written yet is lost where
    the server is killed. `by` names a parameter of requests (or a header that Triton forwards) whose values each get an
    equal part; `by` and `slices` are kept as `slice.<name>`, `group` as `group`, and no other parameter is. Inputs in
    `never` are kept as their padding value throughout. Shards go after `retention_days`.
    """

    rate: Annotated[float, Field(gt=0, le=1, strict=False)]
    most_a_day: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    every_hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 24
    retention_days: Annotated[int, Field(ge=1)] = 14
    seed: Annotated[int, Field(ge=0)] = 0
    by: ParameterName | None = None
    slices: Annotated[tuple[ParameterName, ...], Field(strict=False)] = ()
    group: ParameterName | None = None
    never: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @field_validator("slices", "never")
    @classmethod
    def _no_repeats(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value} is listed twice; remove one")
        return values

    @model_validator(mode="after")
    def _never_is_never(self) -> SamplingSpec:
        kept = {self.by, self.group, *self.slices}
        for name in self.never:
            if name in kept:
                raise ValueError(f"never: {name} is kept as a slice or group by this very section; remove one of them")
        return self

    def problem_with(self, inputs: Mapping[str, InputSpec]) -> str | None:
        """What is wrong with `never` for a model of these inputs; None where nothing is."""
        for name in self.never:
            if name not in inputs:
                return (
                    f"serving.sampling.never: {name} is no input (there are {', '.join(inputs)}); remove it: parameters"
                    " of requests are kept only where by, slices or group name them"
                )
        return None

    def for_route(self, inputs: Mapping[str, InputSpec], folder: str) -> dict[str, Any]:
        """The `sampling` of `route.json` for a host that keeps shards in `folder`."""
        fields = self.model_dump(mode="json", exclude={"never"})
        return {**fields, "folder": folder, "redacted": {name: inputs[name].pad for name in self.never}}
