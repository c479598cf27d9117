"""The torch child of the reference stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.samples.feeds import split_batches
from tasks.samples.npz import Arrays, load_arrays, save_shard, shard_paths
from tasks.torch_side.interface import ReferenceRequest
from tasks.torch_side.torch_module import PositionalModule, load_module, run_module
from tasks.torch_side.torch_purity import refuse_other_outputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(raw: dict[str, Any], progress: Callable[[int, int], None]) -> int:
    """Serve a ReferenceRequest; return how many samples the module ran on. See `tasks.stages.reference`."""
    request = ReferenceRequest.model_validate(raw)
    paths = shard_paths(request.shards)
    progress(0, len(paths))
    module = load_module(request.module)
    samples = 0
    for number, path in enumerate(paths):
        outputs = _run_shard(module, request, load_arrays(path), f"shard {path.stem}")
        _check_finite(outputs, path.stem)
        save_shard(request.output, number, outputs)
        samples += len(next(iter(outputs.values())))
        progress(number + 1, len(paths))
    _run_again(module, request, paths[0])
    return samples


def _run_again(module: PositionalModule, request: ReferenceRequest, path: Path) -> None:
    """Run the first batch once more, after all others: outputs that depend on when they are asked for are refused."""
    spec = request.module.spec
    feeds, real = next(split_batches(load_arrays(path), spec.dims[spec.batch_dim]))
    again = run_module(module, request.module, feeds, f"shard {path.stem}")
    first = load_arrays(request.output / path.name)
    rows = slice(real)
    refuse_other_outputs(
        module,
        request.module,
        feeds,
        {name: first[name][rows] for name in spec.outputs},
        {name: again[name][rows] for name in spec.outputs},
        f"samples of shard {path.stem}",
    )


def _run_shard(module: PositionalModule, request: ReferenceRequest, shard: Arrays, label: str) -> Arrays:
    spec, batches = request.module.spec, []
    for feeds, real in split_batches(shard, spec.dims[spec.batch_dim]):
        outputs = run_module(module, request.module, feeds, label)
        batches.append({name: array[:real] for name, array in outputs.items()})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in spec.outputs}


def _check_finite(outputs: Arrays, shard: str) -> None:
    for name, array in outputs.items():
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if len(bad):
            raise InputError(
                f"{SPEC_FILE}: outputs.{name}: the reference itself gives NaN or Inf for {len(bad)} samples of shard"
                f" {shard}, first sample {bad[0]} of it; mend the module or its weights, or remove those samples"
            )
