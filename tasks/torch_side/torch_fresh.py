"""The fresh part of the probe's torch child: makes inputs that are in no file, and runs the module on them, twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.samples.feeds import split_batches
from tasks.samples.fresh_inputs import FreshShard, fresh_shards
from tasks.samples.npz import Arrays, save_shard
from tasks.torch_side.interface import FreshReply, FreshRequest
from tasks.torch_side.torch_module import PositionalModule, run_module
from tasks.torch_side.torch_purity import refuse_other_outputs


def run_fresh_inputs(module: PositionalModule, request: FreshRequest) -> FreshReply:
    """Serve a FreshRequest with the module that was loaded for it.

    Raises:
        InputError: it takes none of the inputs, or gives other outputs when it is called again.
    """
    ran, refused = _run_all(module, request)
    _run_again(module, request, ran)
    labels, draws, samples = [], [], 0
    for number, (shard, outputs) in enumerate(ran):
        save_shard(request.inputs, number, shard.inputs)
        save_shard(request.outputs, number, outputs)
        labels.append(shard.label)
        draws.append(shard.draw.value)
        samples += len(next(iter(outputs.values())))
    return FreshReply(labels=tuple(labels), draws=tuple(draws), samples=samples, refused=tuple(refused))


def _run_all(module: PositionalModule, request: FreshRequest) -> tuple[list[tuple[FreshShard, Arrays]], list[str]]:
    """What the module gives, without the samples on which it gives NaN or Inf, and why others were left out.

    Raises:
        InputError: it takes none of them.
    """
    ran: list[tuple[FreshShard, Arrays]] = []
    refused: list[str] = []
    for shard in fresh_shards(request.samples, request.module.spec):
        try:
            outputs = _outputs(module, request, shard)
        except InputError as error:  # an input that is not possible after all, such as a length beyond the data
            refused.append(str(error))
            continue
        finite = np.logical_and.reduce(
            [np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in outputs.values()]
        )
        if finite.any():
            inputs = {name: array[finite] for name, array in shard.inputs.items()}
            ran.append((FreshShard(shard.draw, shard.shape, inputs), _of(outputs, finite)))
        else:
            refused.append(f"NaN or Inf on all inputs {shard.label}")
    if not ran:
        raise InputError(
            f"{SPEC_FILE}: source: the module takes no inputs but those of validation.data, not even such as are mixed"
            f" of two of them: {refused[-1]}; mend the module, so that it can be tried on inputs that are in no file"
        )
    return ran, refused


def _of(outputs: Arrays, rows: np.ndarray[Any, Any]) -> Arrays:
    return {name: array[rows] for name, array in outputs.items()}


def _outputs(module: PositionalModule, request: FreshRequest, shard: FreshShard, *, backwards: bool = False) -> Arrays:
    spec, label = request.module.spec, f"inputs {shard.label}"
    batches = list(split_batches(shard.inputs, spec.dims[spec.batch_dim]))
    order = list(enumerate(batches))
    found = {
        number: {name: array[:real] for name, array in run_module(module, request.module, feeds, label).items()}
        for number, (feeds, real) in (reversed(order) if backwards else order)
    }
    return {name: np.concatenate([found[number][name] for number in range(len(batches))]) for name in spec.outputs}


def _run_again(module: PositionalModule, request: FreshRequest, ran: list[tuple[FreshShard, Arrays]]) -> None:
    """From the last batch to the first: what is drawn at random or remembered shows."""
    for shard, outputs in reversed(ran):
        again = _outputs(module, request, shard, backwards=True)
        spec = request.module.spec
        feeds, _ = next(split_batches(shard.inputs, spec.dims[spec.batch_dim]))
        refuse_other_outputs(module, request.module, feeds, outputs, again, shard.label)
