"""What a parent asks of the children that run where torch is, and what these answer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks.declared import Frozen
from tasks.sources.interface import ModuleRequest

PLAIN, SIMPLIFIED = "plain", "simplified"
MASK = "mask."
"""Begins the name of an input that an output names as its mask, beside the outputs on samples."""
OWN_GRAPH = "own_graph"
"""The attribute of a module that holds the path of the ONNX file that it runs."""
SCRIPTED = "scripted"
"""The attribute of a module that is TorchScript: itself."""
AS_IT_IS = "as it is"
"""What an export says of dynamic dims where the graph was there before."""
NOTES = LEFT_OUT, KEPT = "outputs left out", "transforms kept"
"""What an export may have to tell, beside how it went."""


class ExportRequest(Frozen):
    """What the torch child exports, and where to; paths are of this host."""

    module: ModuleRequest
    samples: Path | None
    output: Path
    external_bytes: int


class ExportReply(Frozen):
    """Folders `plain` and `simplified` hold the graphs, `expected` the reference at every shape.

    `simplify_failure` says why there is no simplified graph; it is empty where there is one. `opset` is the
    graph's, and `exporter` what wrote it. `notes` are what is to be told, by what it is about.
    """

    simplify_failure: str
    dynamic_dims: str
    opset: int
    exporter: str
    notes: dict[str, str] = Field(default_factory=dict)


class ReferenceRequest(Frozen):
    """The module, the shards it runs on and where its outputs go; paths are of this host."""

    module: ModuleRequest
    shards: Path
    output: Path


class FreshRequest(Frozen):
    """The module, shards of samples to make fresh inputs of, and empty folders for those and the outputs on them."""

    module: ModuleRequest
    samples: Path
    inputs: Path
    outputs: Path


class ProbeRequest(Frozen):
    """The module; with data, what its fresh inputs are made of, and an empty folder for outputs on real samples."""

    module: ModuleRequest
    fresh: FreshRequest | None
    seen: Path


class FreshReply(Frozen):
    """Of each shard that was written its label and how it was made, and why others were left out."""

    labels: tuple[str, ...]
    draws: tuple[str, ...]
    samples: int
    refused: tuple[str, ...]


class ProbeReply(Frozen):
    """The shapes at which the module ran, those for which there was no time, and of fresh inputs what there is.

    `problems` says what is wrong with it; the outputs on samples are there all the same, where it ran on them.
    """

    shapes: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    fresh: FreshReply | None = None
    problems: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()


class ObserveRequest(Frozen):
    """A module of which the outputs are not known, shards of a few samples, and an empty folder for what it returns.

    `unnamed` is the input whose name the data do not say.
    """

    module: ModuleRequest
    samples: Path
    seen: Path
    unnamed: str | None = None


class ObserveReply(Frozen):
    """What the unnamed input is called, if there was one, and the names of the tensors that the module returns.

    `only` is the one number of samples that the module takes, where it takes no other; it has returned nothing then.
    """

    renamed: dict[str, str]
    outputs: tuple[str, ...] = ()
    only: int | None = None
