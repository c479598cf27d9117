"""What a parent asks of the child that loads ONNX graphs, and what this answers."""

from __future__ import annotations

from tasks.specs import Dim, Frozen, InputSpec


class CheckExportRequest(Frozen):
    """An exported graph and what the reference gave: `{number:05d}.npz` for each of the check shapes."""

    onnx: str
    expected: str
    inputs: dict[str, InputSpec]
    outputs: tuple[str, ...]
    dims: dict[str, Dim]
    progress_before: int


class CheckExportReply(Frozen):
    """Largest |difference| by shape, in the outputs' own units."""

    checks: dict[str, float]


def export_steps(shapes: int) -> int:
    """Steps that progress counts: load, export and simplify; then each shape in torch and in ONNX Runtime."""
    return 3 + 2 * shapes


class CheckTypedRequest(Frozen):
    """A converted graph, the graph it came from, and what to run it on; paths are of this host."""

    onnx: str
    original: str
    inputs: dict[str, InputSpec]
    dims: dict[str, Dim]
    samples: str | None


class CheckTypedReply(Frozen):
    """The graph loads, runs at opt, and takes and gives what the original does. ModelOpt may raise its opset."""

    opset: int
