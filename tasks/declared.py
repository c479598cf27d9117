"""The base of what people declare, and the declarations of inputs and of the dimensions that they share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

NAME_LENGTH = 64
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=NAME_LENGTH)]
ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Bound = int | float | Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*( ?- ?[0-9]+)?$")]
Dtype = Literal["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]


class Frozen(BaseModel):
    """Base of every model here: immutable, and a key that it does not know is an error.

    Fields `of_later` releases are dumped only where they are set: what was made before keeps its keys and versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    of_later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        unset = [name for name in self.of_later if getattr(self, name) == type(self).model_fields[name].default]
        return {name: value for name, value in found.items() if name not in unset}


class Declared(Frozen):
    """Base of what people write in model.yaml: types are taken strictly, so `"8"` or `true` is no number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Dim(Declared):
    """Extent of a named dimension, in elements, as TensorRT's optimisation profile wants it.

    With `buckets`, TensorRT builds one plan of fixed shape for each, and an input is padded to the smallest that
    holds it; backends without a need for fixed shapes ignore them. With `multiple_of`, only its multiples are extents,
    as of a net that halves an image some times.
    """

    of_later = ("multiple_of",)

    min: Annotated[int, Field(ge=1)]
    opt: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]
    buckets: Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, Field(strict=False, min_length=1)] = None
    multiple_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Dim:
        if self.opt > self.max:
            raise ValueError(f"opt {self.opt} is above max {self.max}; raise max or lower opt")
        if self.min > self.opt:
            raise ValueError(f"min {self.min} is above opt {self.opt}; raise opt or lower min")
        return self

    @model_validator(mode="after")
    def _buckets_cover_the_range(self) -> Dim:
        buckets = self.buckets or (self.min, self.opt, self.max)
        if self.buckets is not None and list(buckets) != sorted(set(buckets)):
            raise ValueError(f"buckets {list(buckets)} do not rise; write each extent once, smallest first")
        if self.opt not in buckets or buckets[-1] != self.max or buckets[0] < self.min:
            raise ValueError(
                f"buckets {list(buckets)}: must lie between min {self.min} and max {self.max}, end with max and hold"
                f" opt {self.opt}; change them, or the range"
            )
        return self

    @model_validator(mode="after")
    def _extents_are_multiples(self) -> Dim:
        step = self.step
        for name, extents in (("min", [self.min]), ("opt", [self.opt]), ("max", [self.max]), ("buckets", self.buckets)):
            for extent in extents or ():
                if extent % step:
                    below = extent // step * step
                    nearest = " or ".join(str(found) for found in (below, below + step) if found)
                    raise ValueError(f"{name} {extent} is not a multiple_of {step}; write {nearest}")
        return self

    @property
    def step(self) -> int:
        """What every extent is a multiple of."""
        return self.multiple_of or 1

    def without_buckets(self) -> Dim:
        """The same range, all of it in one plan."""
        return self.model_copy(update={"buckets": None})

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents worth measuring: the buckets, or else min, opt and max; no repeats, smallest first."""
        return self.buckets or tuple(sorted({self.min, self.opt, self.max}))


class InputSpec(Declared):
    """An input of the module: its dtype, per axis a dimension's name or a fixed extent, and what pads it to a bucket.

    Padding goes at the end of an axis; the module must give the same outputs with it, as by a mask that is zero there.
    `range` is the closed interval of its values; a bound may be a dimension's extent, as `[1, sequence]` of lengths,
    or that less a number, as `[0, sequence-1]` of positions. `shape` has the samples first, as data and engines have;
    `batch_axis` is where `forward` wants them, None where all samples of a call share one value (of a scalar, say).
    """

    of_later = ("range", "batch_axis")

    dtype: Dtype
    shape: Annotated[tuple[ArrayName | Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)]
    pad: int | float = 0
    range: Annotated[tuple[Bound, Bound] | None, Field(strict=False)] = None
    batch_axis: Annotated[int, Field(ge=0)] | None = 0

    @model_validator(mode="after")
    def _range_is_an_interval(self) -> InputSpec:
        low, high = self.range or (0, 0)
        if not isinstance(low, str) and not isinstance(high, str) and low > high:
            raise ValueError(f"range [{low}, {high}] is empty; write [low, high] with low <= high")
        return self

    @property
    def is_shared(self) -> bool:
        """Whether all samples of a call share its value."""
        return self.batch_axis is None
