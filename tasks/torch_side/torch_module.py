"""Loads the user's module with its weights. Runs in child processes only: it imports torch and the user's code."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import random
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.samples.npz import Arrays
    from tasks.torch_side.interface import ModuleRequest

SEED = 0
ORIGIN = f"{SPEC_FILE}: source"


class PositionalModule(nn.Module):
    """The user's module behind one calling convention: inputs in model.yaml's order, outputs as a tuple in its order.

    The module itself is called by keyword, so the order of its parameters does not matter.
    """

    def __init__(self, module: nn.Module, request: ModuleRequest) -> None:
        super().__init__()
        self.module = module
        self.input_names = tuple(request.inputs)
        self.output_names = request.outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor per declared output."""
        return _as_tuple(self.module(**dict(zip(self.input_names, inputs, strict=True))), self.output_names)


def _as_tuple(outputs: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    if isinstance(outputs, Tensor):
        return (outputs,)
    if hasattr(outputs, "keys"):
        return tuple(outputs[name] for name in (names if set(names) == set(outputs.keys()) else outputs.keys()))
    return tuple(outputs)


def load_module(request: ModuleRequest) -> PositionalModule:
    """Build the module, load its weights and make it ready to trace: float32, eval mode, no gradients.

    Random numbers are seeded first, so that a module without a weights file is the same in every stage.

    Raises:
        InputError: the source, its callable, the weights or the inputs do not fit.
    """
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - user code draws from the global generator
    random.seed(SEED)
    # The fast path of nn.TransformerEncoder drops padded positions and cannot be traced.
    torch.backends.mha.set_fastpath_enabled(False)
    module = _call(request, request.source, _find_callable(request))
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{ORIGIN}: {request.source} returned {type(module).__name__}, not a torch.nn.Module; return the module"
        )
    _check_parameters(module, request)
    if request.weights is not None:
        _load_weights(module, request.weights)
    return PositionalModule(module, request).float().eval().requires_grad_(False)


def _find_callable(request: ModuleRequest) -> Callable[[], object]:
    relative, _, name = request.source.rpartition(":")
    path = request.folder / relative
    # As a script would: what lies beside the source can be imported.
    sys.path[:0] = dict.fromkeys((str(path.parent), str(request.folder)))
    module_name = path.stem if path.stem not in sys.modules else f"model_source_{path.stem}"
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None  # noqa: S101 - the path ends in .py
    assert specification.loader is not None  # noqa: S101 - as above
    source = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = source
    loader = specification.loader
    _call(request, relative, lambda: loader.exec_module(source))
    found = getattr(source, name, None)
    if not callable(found):
        known = sorted(key for key, value in vars(source).items() if callable(value) and not key.startswith("_"))
        hint = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {hint[0]!r}?" if hint else "define it there"
        raise InputError(f"{ORIGIN}: {relative} has no callable {name!r}; {remedy}")
    return found  # type: ignore[no-any-return]  # callable() does not say what it returns


def _call(request: ModuleRequest, what: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        raise InputError(f"{ORIGIN}: {what} raised {explain(error, request)}; mend the module") from None


def explain(error: BaseException, request: ModuleRequest) -> str:
    """`ValueError: what it says (model.py, line 12)`; the place is the last one in the user's own files."""
    folder = request.folder
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in Path(frame.filename).parents]
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}, line {error.lineno})"
    elif frames:
        place = f" ({Path(frames[-1].filename).relative_to(folder)}, line {frames[-1].lineno})"
    else:
        place = ""
    return f"{type(error).__name__}: {error}{place}"


def _check_parameters(module: nn.Module, request: ModuleRequest) -> None:
    parameters = inspect.signature(module.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    named = [name for name, p in parameters.items() if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in request.inputs:
            if name not in named:
                nearest = difflib.get_close_matches(name, named, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"it takes {', '.join(named) or 'nothing'}"
                raise InputError(f"{SPEC_FILE}: inputs.{name}: the module's forward takes no {name!r}; {hint}")
    needed = [name for name in named if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in request.inputs]
    if missing:
        raise InputError(
            f"{SPEC_FILE}: inputs: the module's forward also needs {', '.join(missing)}; declare"
            f" {'it' if len(missing) == 1 else 'them'}, or give {'it a default' if len(missing) == 1 else 'defaults'}"
        )


def _load_weights(module: nn.Module, path: Path) -> None:
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{SPEC_FILE}: weights: {path.name} is no safetensors file ({error});"
            " save the state dict with safetensors.torch.save_file"
        ) from None
    wanted = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    loaded = {wanted[name].data_ptr() for name in given if name in wanted and wanted[name].numel()}
    problems = [
        # safetensors keeps one name of tensors that are tied, so a tied twin is not missing.
        *(f"missing: {n} {_shape(t)}" for n, t in wanted.items() if n not in given and t.data_ptr() not in loaded),
        *(f"unexpected: {name} {_shape(tensor)}" for name, tensor in given.items() if name not in wanted),
        *(
            f"misshapen: {name} {_shape(tensor)}, the module has {_shape(wanted[name])}"
            for name, tensor in given.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
    ]
    if problems:
        raise InputError(
            f"{SPEC_FILE}: weights: {path.name} is not for this module; save the weights of the module that"
            " the source builds:" + "".join(f"\n  {problem}" for problem in sorted(problems))
        )
    module.load_state_dict(given, strict=False)


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def as_tensors(feeds: Arrays) -> tuple[Tensor, ...]:
    """The arrays as tensors, in their order."""
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in feeds.values())


def run_module(module: PositionalModule, request: ModuleRequest, feeds: Arrays, label: str) -> Arrays:
    """Run the module once; return its outputs by name, as float32 arrays.

    Raises:
        InputError: forward raised, or its outputs are not the declared ones with the samples on the first axis.
    """
    ordered = {name: feeds[name] for name in request.inputs}
    try:
        with torch.no_grad():  # not inference_mode: what the module caches must remain traceable
            outputs = module(*as_tensors(ordered))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        raise InputError(
            f"{ORIGIN}: the module's forward raised {explain(error, request)} on inputs of {label};"
            " mend the module, or narrow dims to what it takes"
        ) from None
    samples = len(next(iter(ordered.values())))
    return _named(outputs, request.outputs, samples)


def _named(outputs: Sequence[Any], names: Sequence[str], samples: int) -> dict[str, Any]:
    if len(outputs) != len(names):
        raise InputError(
            f"{SPEC_FILE}: outputs: the module returns {len(outputs)} outputs, but {len(names)} are declared"
            f" ({', '.join(names)}); declare them all, in their order"
        )
    found: Mapping[str, Any] = dict(zip(names, outputs, strict=True))
    for name, output in found.items():
        if not isinstance(output, Tensor):
            raise InputError(
                f"{SPEC_FILE}: outputs.{name}: the module returns {type(output).__name__} there, not a tensor;"
                " return tensors only"
            )
        if not output.ndim or output.shape[0] != samples:
            raise InputError(
                f"{SPEC_FILE}: outputs.{name}: has shape {_shape(output)} for {samples} samples;"
                " the first axis must be the samples"
            )
    return {name: output.to(torch.float32).numpy() for name, output in found.items()}
