"""The torch child of the probe: runs the module at every shape that dims promise, on fresh inputs, and on samples."""

from __future__ import annotations

import time
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.samples.feeds import split_batches
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.samples.shapes import check_shapes, feeds_at, shape_label
from tasks.torch_side.interface import MASK, ProbeReply, ProbeRequest
from tasks.torch_side.torch_fresh import run_fresh_inputs
from tasks.torch_side.torch_module import PositionalModule, load_module, run_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from tasks.samples.npz import Arrays
    from tasks.samples.shapes import Extents

SHAPES_S = 30.0
"""No shape is begun after so long: the export, which has more time, tries them all."""
SEEN_SAMPLES = 64
SEEN_BYTES = 32 << 20


def probe(raw: dict[str, Any], progress: Callable[[int, int], None]) -> ProbeReply:
    """Serve a ProbeRequest; see `tasks.stages.probe`."""
    request = ProbeRequest.model_validate(raw)
    shapes = sorted(check_shapes(request.module.spec.dims), key=lambda shape: prod(shape.values()))
    steps = len(shapes) + 2
    progress(0, steps)
    module = load_module(request.module)
    if request.fresh is None:
        return ProbeReply()
    problems, untried = _run_shapes(module, request, shapes, lambda done: progress(done, steps))
    tried = [shape_label(shape) for shape in shapes if shape_label(shape) not in untried]
    fresh = None
    if len(problems) < len(tried):
        try:
            fresh = run_fresh_inputs(module, request.fresh)
        except InputError as error:
            problems["fresh inputs"] = str(error)
    progress(len(shapes) + 1, steps)
    try:
        _save_seen(module, request, shard_paths(request.fresh.samples))
    except InputError as error:
        problems["samples"] = str(error)
    return ProbeReply(
        shapes=tuple(tried),
        untried=tuple(untried),
        fresh=fresh,
        problems=tuple(dict.fromkeys(_joined(problems))),
        class_counts=module.class_counts,
    )


def _run_shapes(
    module: PositionalModule, request: ProbeRequest, shapes: Sequence[Extents], progress: Callable[[int], None]
) -> tuple[dict[str, str], list[str]]:
    """What was raised, by shape, and the shapes for which there was no time."""
    assert request.fresh is not None  # noqa: S101 - without data no shape is tried
    ends, problems, untried = time.monotonic() + SHAPES_S, {}, []
    for number, shape in enumerate(shapes):
        label = shape_label(shape)
        if number and time.monotonic() > ends:
            untried.append(label)
            continue
        try:
            run_module(
                module, request.module, feeds_at(request.fresh.samples, request.module.spec.inputs, shape), label
            )
        except InputError as error:
            problems[label] = str(error)
        progress(number + 1)
    return problems, untried


def _joined(problems: dict[str, str]) -> Iterable[str]:
    """A mistake that shows at several shapes once, with all of them."""
    labels: dict[str, list[str]] = {}
    for label, text in problems.items():
        labels.setdefault(text.replace(label, "\0"), []).append(label)
    return (text.replace("\0", " and ".join(found)) for text, found in labels.items())


def _save_seen(module: PositionalModule, request: ProbeRequest, paths: Sequence[Path]) -> None:
    """Write outputs on some samples of every shard, with the masks that outputs name, until they are many bytes."""
    spec = request.module.spec
    masks = {output.mask for output in spec.outputs.values() if output.mask is not None}
    written, rows = 0, -(-SEEN_SAMPLES // len(paths))
    for number, path in enumerate(paths):
        batches: list[Arrays] = []
        shard = {name: array[:rows] for name, array in load_arrays(path).items()}
        for feeds, real in split_batches(shard, spec.dims[spec.batch_dim]):
            outputs = run_module(module, request.module, feeds, f"shard {path.stem}")
            found: Arrays = {name: array[:real] for name, array in outputs.items()}
            found |= {f"{MASK}{name}": feeds[name][:real] for name in masks}
            batches.append(found)
            written += sum(array.nbytes for array in found.values())
            if written > SEEN_BYTES:
                break
        save_shard(request.seen, number, {name: np.concatenate([one[name] for one in batches]) for name in batches[0]})
        if written > SEEN_BYTES:
            return
