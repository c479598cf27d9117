"""What a parent asks of the child that loads ONNX graphs, and what this answers."""

from __future__ import annotations

from pathlib import Path

from tasks.declared import Frozen
from tasks.specs import ModelSpec

MOST_HALF_ERROR = 0.5
"""Relative L2 between an FP16 graph and the exported one beyond which it is another graph, not a less precise one."""


class CheckExportRequest(Frozen):
    """An exported graph and what the reference gave: `{number:05d}.npz` for each of the check shapes."""

    onnx: Path
    expected: Path
    spec: ModelSpec
    progress_before: int


def export_steps(shapes: int) -> int:
    """Steps that progress counts: load, export and simplify; then each shape in torch and in ONNX Runtime."""
    return 3 + 2 * shapes


class CheckTypedRequest(Frozen):
    """A converted graph, the graph it came from, and what to run both on at each of the check shapes.

    `most_error` is how far the outputs may be apart, by relative L2; None where only shapes are compared. With
    `opt_only` both run at `opt` alone. With `written_out` the converted graph runs as `cpu_form` has it.
    """

    onnx: Path
    original: Path
    spec: ModelSpec
    samples: Path | None
    most_error: float | None = None
    opt_only: bool = False
    written_out: bool = False


class CheckFreshRequest(Frozen):
    """An exported graph, inputs that are in no file, what the reference gave on them, and each shard's label."""

    onnx: Path
    inputs: Path
    outputs: Path
    labels: tuple[str, ...]
    spec: ModelSpec
