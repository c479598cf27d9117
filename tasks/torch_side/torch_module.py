"""The user's module behind one calling convention. Runs in child processes only: it imports torch and user code."""

from __future__ import annotations

import difflib
import inspect
import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, require_kinds
from tasks.samples.differences import allowed_difference, difference_in_words, largest_difference
from tasks.sources import source_of
from tasks.sources.interface import ORIGIN, ModuleRequest, explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.samples.npz import Arrays

SEED = 0
NARROW_OR_WIDE = ("BFloat16", "Half", "Double")
"""Types as torch's errors name them, which the module's parameters no longer have."""


class PositionalModule(nn.Module):
    """The user's module behind one calling convention: inputs in model.yaml's order, outputs as a tuple in its order.

    The module itself is called by keyword, so the order of its parameters does not matter.
    """

    def __init__(self, module: nn.Module, request: ModuleRequest) -> None:
        super().__init__()
        self.module = module
        self.input_names = tuple(request.spec.inputs)
        self.output_names = tuple(request.spec.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor per declared output; neither numpy nor ONNX Runtime's Python API has bfloat16."""
        outputs = _as_tuple(self.module(**dict(zip(self.input_names, inputs, strict=True))), self.output_names)
        return tuple(
            output.float() if isinstance(output, Tensor) and output.dtype is torch.bfloat16 else output
            for output in outputs
        )


def _as_tuple(outputs: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    if isinstance(outputs, Tensor):
        return (outputs,)
    if hasattr(outputs, "keys"):
        return tuple(outputs[name] for name in (names if set(names) == set(outputs.keys()) else outputs.keys()))
    return tuple(outputs)


def load_module(request: ModuleRequest) -> PositionalModule:
    """Have its source load the module, and make it ready to trace: float32, eval mode, no gradients.

    Random numbers are seeded first, so that a module without a weights file is the same in every stage.

    Raises:
        InputError: the source, its callable, the weights or the inputs do not fit.
    """
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - user code draws from the global generator
    random.seed(SEED)
    # The fast path of nn.TransformerEncoder drops padded positions and cannot be traced.
    torch.backends.mha.set_fastpath_enabled(False)
    source = request.spec.source
    module = source_of(source).load(request)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{ORIGIN}: {source} returned {type(module).__name__}, not a torch.nn.Module; return the module"
        )
    _check_parameters(module, request)
    return PositionalModule(module, request).float().eval().requires_grad_(False)


def _check_parameters(module: nn.Module, request: ModuleRequest) -> None:
    parameters = inspect.signature(module.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    named = [name for name, p in parameters.items() if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in request.spec.inputs:
            if name not in named:
                nearest = difflib.get_close_matches(name, named, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"it takes {', '.join(named) or 'nothing'}"
                raise InputError(f"{SPEC_FILE}: inputs.{name}: the module's forward takes no {name!r}; {hint}")
    needed = [name for name in named if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in request.spec.inputs]
    if missing:
        raise InputError(
            f"{SPEC_FILE}: inputs: the module's forward also needs {', '.join(missing)}; declare"
            f" {'it' if len(missing) == 1 else 'them'}, or give {'it a default' if len(missing) == 1 else 'defaults'}"
        )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def as_tensors(feeds: Arrays) -> tuple[Tensor, ...]:
    """Copies of the arrays as tensors, in their order: a module may change what it is given."""
    return tuple(torch.from_numpy(np.array(array, order="C")) for array in feeds.values())


def run_module(module: PositionalModule, request: ModuleRequest, feeds: Arrays, label: str) -> Arrays:
    """Run the module once; return its outputs by name: floats as float32, all else as it is.

    Raises:
        InputError: forward raised, or its outputs are not the declared ones with the samples on the first axis, or one
            is not of its kind.
    """
    ordered = {name: feeds[name] for name in request.spec.inputs}
    try:
        with torch.no_grad():  # not inference_mode: what the module caches must remain traceable
            outputs = module(*as_tensors(ordered))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        raise InputError(
            f"{ORIGIN}: the module's forward raised {explain(error, request)} on inputs of {label}; {_remedy(error)}"
        ) from None
    samples = len(next(iter(ordered.values())))
    found = _named(outputs, tuple(request.spec.outputs), samples)
    require_kinds(found, request.spec)
    return found


def _remedy(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and any(name in str(error) for name in NARROW_OR_WIDE):
        return (
            "the reference is run in float32, whatever its weights were: cast to the dtype of the module's weights,"
            " as by x.to(self.layer.weight.dtype), and not to one by name, or declare float inputs as float32"
        )
    return "mend the module, or narrow dims to what it takes"


def refuse_other_outputs(request: ModuleRequest, first: Arrays, again: Arrays, label: str) -> None:
    """Refuse a module that gives other outputs when it is called again on the same inputs.

    Raises:
        InputError: an output differs by more than the order of sums explains; it is named.
    """
    for name, expected in first.items():
        found, allowed = again[name], allowed_difference(expected)
        largest = largest_difference(found, expected) if found.shape == expected.shape else math.inf
        if not largest <= allowed:
            far, most = (difference_in_words(number, expected) for number in (largest, allowed))
            raise InputError(
                f"{SPEC_FILE}: source: {request.spec.source} is not a function of its inputs: called twice on the same"
                f" {label}, output {name} differs by {far}, and {most} is the most that rounding"
                " explains. Call eval(), and take out what is random at inference (dropout, noise) and what is kept"
                " from one call to the next"
            )


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
    return {name: _as_array(output) for name, output in found.items()}


def _as_array(output: Tensor) -> np.ndarray[Any, Any]:
    whole = not (output.is_floating_point() or output.is_complex())
    return np.asarray(output.numpy() if whole else output.to(torch.float32).numpy())
