"""Where the samples stand in the inputs that model.yaml declares: put first, as data and engines have them."""

from __future__ import annotations

from typing import Any

BATCH = "batch"


def samples_first(written: object) -> object:
    """A model.yaml whose inputs have the samples first, with `batch_axis` where `forward` wants them elsewhere.

    The samples' dimension is the one called `batch`, where every input with a named dimension has it; otherwise the
    one that all of these begin with. An input whose extents are all numbers, or that has none, is shared by all samples
    of a call. What is written otherwise comes back as it is, for whoever checks it.
    """
    inputs = written.get("inputs") if isinstance(written, dict) else None
    if not isinstance(inputs, dict) or not all(_has_shape(entry) for entry in inputs.values()):
        return written
    batch = _batch([list(entry["shape"]) for entry in inputs.values()])
    if batch is None:
        return written
    return {**written, "inputs": {name: _moved(entry, batch) for name, entry in inputs.items()}}  # type: ignore[dict-item]  # a dict, as seen above


def _has_shape(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("shape"), (list, tuple))


def _batch(shapes: list[list[object]]) -> str | None:
    named = [shape for shape in shapes if any(isinstance(axis, str) for axis in shape)]
    if not named:
        return None
    if all(BATCH in shape for shape in named):
        return BATCH
    first = named[0][0]
    return first if isinstance(first, str) and all(shape[0] == first for shape in named) else None


def _moved(entry: dict[str, Any], batch: str) -> dict[str, Any]:
    shape = list(entry["shape"])
    if "batch_axis" in entry or shape[:1] == [batch]:
        return entry
    if batch in shape:
        axis = shape.index(batch)
        return {**entry, "shape": [batch, *shape[:axis], *shape[axis + 1 :]], "batch_axis": axis}
    if any(isinstance(extent, str) for extent in shape):
        return entry
    return {**entry, "shape": [batch, *shape], "batch_axis": None}


def dim_of(bound: str) -> str:
    """The dimension that a bound of a range names: of `sequence-1`, `sequence`."""
    return bound.partition("-")[0].strip()
