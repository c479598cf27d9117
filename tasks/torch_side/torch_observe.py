"""The torch child of an import: what a module calls its inputs, and all the tensors that it returns."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tasks.errors import InputError
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.sources import source_of
from tasks.sources.interface import ORIGIN
from tasks.torch_side.interface import ObserveReply, ObserveRequest
from tasks.torch_side.torch_module import as_tensors, call_module, load_module, seed_generators
from tasks.torch_side.torch_returned import named_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.samples.npz import Arrays
    from tasks.sources.interface import ModuleRequest
    from tasks.torch_side.torch_module import PositionalModule

SIZES_TRIED = (*range(1, 17), 20, 24, 32, 48, 50, 64, 100, 128, 256)
"""Numbers of samples that modules are traced with."""


def observe(raw: dict[str, Any], progress: Callable[[int, int], None]) -> ObserveReply:
    """Serve an ObserveRequest; see `tasks.imports.observation`."""
    request = ObserveRequest.model_validate(raw)
    paths = shard_paths(request.samples)
    progress(0, len(paths) + 1)
    module, renamed = request.module, {}
    if request.unnamed is not None:
        renamed = {request.unnamed: _first_parameter(module)}
        inputs = {renamed.get(name, name): spec for name, spec in module.spec.inputs.items()}
        module = module.model_copy(update={"spec": module.spec.model_copy(update={"inputs": inputs})})
    loaded = load_module(module)
    names: tuple[str, ...] = ()
    for number, path in enumerate(paths):
        arrays = {renamed.get(name, name): array for name, array in load_arrays(path).items()}
        feeds = {name: arrays[name] for name in module.spec.inputs}
        try:
            outputs = _outputs_of(loaded, module, feeds, names)
        except InputError:
            only = _only_size(loaded, module, feeds)
            if only in {None, _samples(feeds)}:  # there is no other reason then, or it was asked for that size
                raise
            return ObserveReply(renamed=renamed, only=only)
        names = tuple(outputs)
        save_shard(request.seen, number, {name: _as_array(tensor) for name, tensor in outputs.items()})
        progress(number + 1, len(paths) + 1)
    return ObserveReply(renamed=renamed, outputs=names)


def _samples(feeds: Arrays) -> int:
    return len(next(iter(feeds.values())))


def _outputs_of(
    loaded: PositionalModule, module: ModuleRequest, feeds: Arrays, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """The tensors that the module returns, the samples first; `names` are those that it returned before, if any."""
    samples = _samples(feeds)
    returned = call_module(loaded, module, as_tensors(feeds), f"{samples} samples")
    outputs = _tensors_of(returned, set(feeds))
    _refuse_others(outputs, samples, names)
    return outputs


def _only_size(loaded: PositionalModule, module: ModuleRequest, feeds: Arrays) -> int | None:
    """The number of samples that the module takes where it takes one number alone, as when it was traced with it."""
    taken = []
    for size in SIZES_TRIED:
        rows = np.arange(size) % _samples(feeds)
        with suppress(InputError):
            _outputs_of(loaded, module, {name: array[rows] for name, array in feeds.items()}, ())
            taken.append(size)
        if len(taken) > 1:
            return None
    return taken[0] if taken else None


def _first_parameter(request: ModuleRequest) -> str:
    """What forward calls its first input."""
    seed_generators()
    module = source_of(request.spec.source).load(request)
    parameters = inspect.signature(getattr(module, "forward", lambda: None)).parameters.values()
    named: list[str] = list(getattr(module, "taken", ())) or [
        one.name for one in parameters if one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}
    ]
    if not named:
        raise InputError(f"{ORIGIN}: the module's forward names no input; bring data as .npz, whose arrays have names")
    return named[0]


def _tensors_of(returned: Any, inputs: set[str]) -> dict[str, Tensor]:
    """The tensors by name; those without a name, or with an input's, by their number."""
    found = named_values(returned)
    if found is None:
        values = returned if isinstance(returned, (tuple, list)) else (returned,)
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) < sum(value is not None for value in values) or not tensors:
            raise InputError(
                f"{ORIGIN}: the module returns {_described(values)}, and an engine returns tensors alone; return a"
                " tensor, a tuple of them or a dict"
            )
        return {"output" if len(tensors) == 1 else f"output_{number}": one for number, one in enumerate(tensors)}
    named = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not named:
        raise InputError(
            f"{ORIGIN}: the module returns no tensor, but {_described(list(found.values()))}; return what the engine"
            " is to give"
        )
    if set(named) & inputs or not all(name.isidentifier() for name in named):
        return {f"output_{number}": tensor for number, tensor in enumerate(named.values())}
    return named


def _described(values: Any) -> str:
    return ", ".join(dict.fromkeys(type(value).__name__ for value in values)) or "nothing"


def _refuse_others(outputs: dict[str, Tensor], samples: int, before: tuple[str, ...]) -> None:
    if before and tuple(outputs) != before:
        raise InputError(
            f"{ORIGIN}: the module returns {', '.join(outputs)} at one shape and {', '.join(before)} at another;"
            " return the same at each"
        )
    for name, tensor in outputs.items():
        if not tensor.ndim or tensor.shape[0] != samples:
            raise InputError(
                f"{ORIGIN}: output {name} has shape {list(tensor.shape)} for {samples} samples; the first axis must be"
                " the samples"
            )


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
