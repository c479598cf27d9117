"""What an engine takes and gives, as Triton is to be told: from its manifest, and of outputs from its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.backends import backend_of
from tasks.errors import RefusedError, StageError
from tasks.samples.npz import load_arrays, shard_paths
from tasks.serving.triton_types import datatype_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.declared import Dim
    from tasks.records import EngineManifest
    from tasks.samples.npz import Arrays

    Axes = tuple[str | int, ...]


@dataclass(frozen=True)
class OutputTensor:
    """An output of an engine: its NumPy dtype, and per axis the name of what varies or an extent; the batch first."""

    dtype: str
    axes: Axes


def batch_of(manifest: EngineManifest) -> str:
    """The name of the dimension that counts samples."""
    return str(next(iter(manifest.inputs.values())).shape[0])


def read_outputs(manifest: EngineManifest, engine: Path) -> dict[str, OutputTensor]:
    """The outputs of the engine whose folder `engine` holds its `plan` and `smoke`.

    Raises:
        RefusedError: it does not load, the samples do not stand on the first axis of an output, or Triton lacks its
            dtype.
    """
    try:
        axes = backend_of(manifest.cell.runtime).output_axes(engine / "plan")
    except StageError as error:  # its files have the digests that were registered: another try changes nothing
        raise RefusedError(f"{manifest.engine_id}: {error}") from None
    inputs, found = (
        [load_arrays(path) for path in shard_paths(engine / "smoke" / name)] for name in ("inputs", "candidate")
    )
    return describe_outputs(manifest, axes, inputs, found)


def describe_outputs(
    manifest: EngineManifest, axes: Mapping[str, Axes], inputs: Sequence[Arrays], found: Sequence[Arrays]
) -> dict[str, OutputTensor]:
    """The outputs of an engine that gave `found` for `inputs`, shard by shard, and says their `axes` itself.

    Raises:
        RefusedError: see `read_outputs`, or there are no samples to tell the dtypes by.
    """
    if not found or len(inputs) != len(found):
        raise RefusedError(
            f"{manifest.engine_id} has no smoke samples, which say its outputs' dtypes and try it on the server;"
            " convert the model again"
        )
    batch, outputs = batch_of(manifest), {}
    for name in manifest.outputs:
        declared = axes.get(name, ())
        if not all(_has_rows(shard.get(name), fed) for shard, fed in zip(found, inputs, strict=True)) or _is_another(
            declared, batch, manifest.dims
        ):
            raise RefusedError(
                f"output {name} of {manifest.engine_id} has axes {list(declared)}, and Triton batches along the first:"
                f" return it with {batch} first, and convert again"
            )
        dtype = found[0][name].dtype.name
        datatype_of(dtype, f"output {name} of {manifest.engine_id}")
        outputs[name] = OutputTensor(dtype, (batch, *declared[1:]))
    return outputs


def _has_rows(output: Any, fed: Arrays) -> bool:
    """Whether an output has a row for each sample."""
    return output is not None and output.ndim > 0 and len(output) == len(next(iter(fed.values())))


def _is_another(axes: Axes, batch: str, dims: Mapping[str, Dim]) -> bool:
    """Whether the first axis is another dimension than the batch, or there is none."""
    return not axes or (axes[0] != batch and axes[0] in dims)
