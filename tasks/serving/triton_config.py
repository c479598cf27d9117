"""Triton's `config.pbtxt` of an engine's models and of the router before them: text made of a manifest, and no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.serving.batching import choose_batching
from tasks.serving.engine_io import batch_of
from tasks.serving.triton_types import datatype_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.declared import Dim, InputSpec
    from tasks.records import EngineManifest
    from tasks.serving.batching import Batching
    from tasks.serving.engine_io import OutputTensor

    Shape = Sequence[str | int]


@dataclass(frozen=True)
class WarmUp:
    """Inputs of one call before a model is served: per input its shape, its dtype and its file in `warmup/`."""

    name: str
    inputs: Mapping[str, tuple[tuple[int, ...], str, str]]


def router_config(manifest: EngineManifest, outputs: Mapping[str, OutputTensor]) -> str:
    """The configuration of the router, which has the model's public name; dims are without the batch axis.

    It has no warm-up of its own: a router that is warmed before its engine is there ends the whole server (2.51), so
    engines are warmed instead, every time one is loaded.

    Raises:
        RefusedError: Triton lacks a dtype.
    """
    batching = choose_batching(manifest)
    ragged = _ragged(manifest.inputs, manifest.dims) if batching is not None else ()
    return _lines(
        f"name: {_text(manifest.cell.model)}",
        'backend: "python"',
        f"max_batch_size: {manifest.dims[batch_of(manifest)].max}",
        *(
            _tensor("input", name, spec.dtype, _rest(spec.shape), "allow_ragged_batch: true" if name in ragged else "")
            for name, spec in manifest.inputs.items()
        ),
        *(_tensor("output", name, output.dtype, _rest(output.axes)) for name, output in outputs.items()),
        "" if batching is None else _dynamic_batching(batching),
        f"instance_group [ {{ count: {manifest.serving.instances} kind: KIND_CPU }} ]",
        "version_policy { latest { num_versions: 1 } }",
    )


def engine_config(
    name: str,
    manifest: EngineManifest,
    outputs: Mapping[str, OutputTensor],
    *,
    dims: Mapping[str, Dim],
    backend: str,
    parameters: Mapping[str, str],
    warm_ups: Sequence[WarmUp] = (),
) -> str:
    """The configuration of an engine's model, which takes whole batches as its plan does: full shapes, no batching.

    Args:
        name: of the model.
        manifest: of the engine.
        outputs: what it gives.
        dims: the extents that this model takes; those that are fixed stand in its shapes.
        backend: `tensorrt` or `python`.
        parameters: for the Python backend.
        warm_ups: calls before it is served.

    Raises:
        RefusedError: Triton lacks a dtype.
    """
    kind = "KIND_GPU" if backend == "tensorrt" else "KIND_CPU"
    # CUDA graphs are the runner's own where Python serves; TensorRT's backend makes them for shapes that are fixed.
    graphs = backend == "tensorrt" and manifest.options.get("cuda_graph") == "true"
    return _lines(
        f"name: {_text(name)}",
        f"backend: {_text(backend)}",
        "max_batch_size: 0",
        *(_tensor("input", each, spec.dtype, _within(spec.shape, dims)) for each, spec in manifest.inputs.items()),
        *(_tensor("output", each, output.dtype, _within(output.axes, dims)) for each, output in outputs.items()),
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
        "version_policy { latest { num_versions: 1 } }",
        "optimization { cuda { graphs: true } }" if graphs else "",
        *(
            f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"
            for key, value in parameters.items()
        ),
        *(_warm_up(each) for each in warm_ups),
    )


def _ragged(inputs: Mapping[str, InputSpec], dims: Mapping[str, Dim]) -> tuple[str, ...]:
    """Inputs that requests of one batch may bring in several lengths: an axis after the batch's has buckets."""
    return tuple(
        name
        for name, spec in inputs.items()
        if any(isinstance(axis, str) and dims[axis].buckets for axis in spec.shape[1:])
    )


def _rest(shape: Shape) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in shape[1:]]


def _within(shape: Shape, dims: Mapping[str, Dim]) -> list[int]:
    return [axis if isinstance(axis, int) else _extent(dims.get(axis)) for axis in shape]


def _extent(dim: Dim | None) -> int:
    return dim.max if dim is not None and dim.min == dim.max else -1


def _tensor(kind: str, name: str, dtype: str, dims: Sequence[int], more: str = "") -> str:
    # Triton wants one axis after the batch at least: [n] is [n, 1] to clients, and [n] again for the model.
    shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
    return (
        f"{kind} [ {{ name: {_text(name)} data_type: TYPE_{datatype_of(dtype, f'{kind} {name}')} {shape}"
        f"{f' {more}' if more else ''} }} ]"
    )


def _dynamic_batching(batching: Batching) -> str:
    sizes = ", ".join(map(str, batching.preferred))
    return (
        f"# {batching.why}\n"
        f"dynamic_batching {{\n  preferred_batch_size: [ {sizes} ]\n"
        f"  max_queue_delay_microseconds: {batching.delay_us}\n"
        "  default_queue_policy {\n    timeout_action: REJECT\n"
        f"    default_timeout_microseconds: {batching.timeout_us}\n"
        f"    max_queue_size: {batching.queue_size}\n  }}\n}}"
    )


def _warm_up(warm_up: WarmUp) -> str:
    inputs = "".join(
        f"\n  inputs {{ key: {_text(name)} value {{ data_type: TYPE_{datatype_of(dtype, f'input {name}')}"
        f" dims: [ {', '.join(map(str, shape))} ] input_data_file: {_text(file)} }} }}"
        for name, (shape, dtype, file) in warm_up.inputs.items()
    )
    return f"model_warmup [ {{\n  name: {_text(warm_up.name)} batch_size: 1{inputs}\n}} ]"


def _text(value: str) -> str:
    """A string of protobuf's text format: its escapes are those of JSON for what stands here."""
    return json.dumps(value, ensure_ascii=False)


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line) + "\n"
