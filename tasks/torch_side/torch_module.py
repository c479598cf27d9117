"""The user's module behind one calling convention. Runs in child processes only: it imports torch and user code."""

from __future__ import annotations

import difflib
import inspect
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.model.settled import require_kinds
from tasks.sources import source_of
from tasks.sources.interface import ORIGIN, ModuleRequest, explain
from tasks.torch_side.torch_recurrent import prepare_recurrence
from tasks.torch_side.torch_returned import left_out, refuse_other_count, take_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.samples.npz import Arrays

SEED = 0
NARROW_OR_WIDE = ("BFloat16", "Half", "Double")
"""Types as torch's errors name them, which the module's parameters no longer have."""


class PositionalModule(nn.Module):
    """The user's module behind one calling convention: inputs in model.yaml's order, outputs as a tuple in its order.

    The module itself is called by keyword, so the order of its parameters does not matter. Here, samples are the first
    axis of all inputs and outputs; it gets them where its `forward` wants them. Where `copies_inputs`, it gets copies.
    """

    def __init__(self, module: nn.Module, request: ModuleRequest) -> None:
        super().__init__()
        self.module = module
        self.input_names = tuple(request.spec.inputs)
        self.output_names = tuple(request.spec.outputs)
        self.batch_axes = tuple(spec.batch_axis for spec in request.spec.inputs.values())
        self.output_axes: tuple[int, ...] | None = None
        self.switches = _switches(module, request)
        self.copies_inputs = False
        self.left_out: tuple[str, ...] = ()
        self.class_counts = _class_counts(module)

    def returned(self, *inputs: Tensor) -> Any:
        """What the module itself returns."""
        if self.copies_inputs:
            inputs = tuple(tensor.clone() for tensor in inputs)
        placed = (_placed(tensor, axis) for tensor, axis in zip(inputs, self.batch_axes, strict=True))
        return self.module(**dict(zip(self.input_names, placed, strict=True)), **self.switches)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor per declared output; neither numpy nor ONNX Runtime's Python API has bfloat16."""
        outputs = self.samples_first(take_outputs(self.returned(*inputs), self.output_names))
        return tuple(
            output.float() if isinstance(output, Tensor) and output.dtype is torch.bfloat16 else output
            for output in outputs
        )

    def samples_first(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Outputs with the axis of the samples first."""
        axes = self.output_axes or (0,) * len(outputs)
        return tuple(out.movedim(axis, 0) if axis else out for out, axis in zip(outputs, axes, strict=True))


def _placed(tensor: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return tensor[0]
    return tensor.movedim(0, axis) if axis else tensor


def _class_counts(module: nn.Module) -> tuple[int, ...]:
    """Numbers of classes by Transformers' configurations; detectors have one more, of nothing."""
    configs = [getattr(part, "config", None) for part in module.modules()]
    named = [getattr(config, name, None) for config in configs for name in ("num_labels", "vocab_size")]
    found = {number for number in named if isinstance(number, int) and number > 1}
    return tuple(sorted({*found, *(number + 1 for number in found)}))


def _switches(module: nn.Module, request: ModuleRequest) -> dict[str, bool]:
    """Arguments that turn off what no engine can return, and have outputs named, where the class has them."""
    for part in module.modules():
        config = getattr(part, "config", None)
        if getattr(config, "use_cache", None):
            with suppress(AttributeError):  # it cannot be changed
                config.use_cache = False  # type: ignore[union-attr]  # it has the attribute
    parameters = inspect.signature(module.forward).parameters
    wanted = {"use_cache": False, "return_dict": True}
    # Only Transformers leaves it open; elsewhere the default is what the author means.
    unset = {name for name in wanted if name in parameters and parameters[name].default in (None, True)}
    named = {"use_cache"} & set(parameters) | unset
    return {name: wanted[name] for name in sorted(named) if name not in request.spec.inputs}


def seed_generators() -> None:
    """Seed the generators that user code may draw from."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - user code draws from the global generator
    random.seed(SEED)


def load_module(request: ModuleRequest) -> PositionalModule:
    """Have its source load the module, and make it ready to trace: float32, eval mode, no gradients.

    Random numbers are seeded first, so that a module without a weights file is the same in every stage.

    Raises:
        InputError: the source, its callable, the weights or the inputs do not fit.
    """
    seed_generators()
    # The fast path of nn.TransformerEncoder drops padded positions and cannot be traced.
    torch.backends.mha.set_fastpath_enabled(False)
    prepare_recurrence()
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
    missing = [name for name in needed if name not in {*request.spec.inputs, "use_cache"}]
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
    tensors = as_tensors(ordered)
    returned = call_module(module, request, tensors, label)
    if any(not _same(tensor, array) for tensor, array in zip(tensors, ordered.values(), strict=True)):
        module.copies_inputs = True
    outputs = take_outputs(returned, module.output_names)
    refuse_other_count(returned, outputs, module.output_names)
    module.left_out = left_out(returned, module.output_names)
    _refuse_others_than_tensors(outputs, module.output_names)
    samples = len(next(iter(ordered.values())))
    if module.output_axes is None and any(module.batch_axes):
        module.output_axes = _output_axes(module, request, ordered, outputs)
    found = _named(module.samples_first(outputs), tuple(request.spec.outputs), samples)
    require_kinds(found, request.spec, module.class_counts)
    return found


def _same(tensor: Tensor, array: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(tensor.numpy(), array)


def call_module(module: PositionalModule, request: ModuleRequest, tensors: tuple[Tensor, ...], label: str) -> Any:
    """What the module returns on some inputs, as it returns it.

    Raises:
        InputError: forward raised.
    """
    try:
        with torch.no_grad():  # not inference_mode: what the module caches must remain traceable
            return module.returned(*tensors)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        raise InputError(
            f"{ORIGIN}: the module's forward raised {explain(error, request)} on inputs of {label}; {_remedy(error)}"
        ) from None


def _remedy(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and any(name in str(error) for name in NARROW_OR_WIDE):
        return (
            "the reference is run in float32, whatever its weights were: cast to the dtype of the module's weights,"
            " as by x.to(self.layer.weight.dtype), and not to one by name, or declare float inputs as float32"
        )
    return "mend the module, or narrow dims to what it takes"


def _output_axes(
    module: PositionalModule, request: ModuleRequest, feeds: Arrays, outputs: Sequence[Tensor]
) -> tuple[int, ...]:
    """The axis of each output that grows with the samples, found by one sample more; 0 where no axis does."""
    samples = len(next(iter(feeds.values())))
    more = {name: array[np.arange(samples + 1) % samples] for name, array in feeds.items()}
    label = f"{samples + 1} samples, which tell the axis of the samples in outputs"
    grown = take_outputs(call_module(module, request, as_tensors(more), label), module.output_names)
    return tuple(
        next((axis for axis, (one, two) in enumerate(zip(a.shape, b.shape, strict=True)) if two == one + 1), 0)
        for a, b in zip(outputs, grown, strict=True)
    )


def _refuse_others_than_tensors(outputs: Sequence[Any], names: Sequence[str]) -> None:
    for name, output in zip(names, outputs, strict=True):
        if not isinstance(output, Tensor):
            raise InputError(
                f"{SPEC_FILE}: outputs.{name}: the module returns {type(output).__name__} there, not a tensor;"
                " return tensors only"
            )


def _named(outputs: Sequence[Tensor], names: Sequence[str], samples: int) -> dict[str, Any]:
    found: Mapping[str, Tensor] = dict(zip(names, outputs, strict=True))
    for name, output in found.items():
        if not output.ndim or output.shape[0] != samples:
            raise InputError(
                f"{SPEC_FILE}: outputs.{name}: has shape {_shape(output)} for {samples} samples;"
                " the first axis must be the samples"
            )
    return {name: _as_array(output) for name, output in found.items()}


def _as_array(output: Tensor) -> np.ndarray[Any, Any]:
    whole = not (output.is_floating_point() or output.is_complex())
    return np.asarray(output.numpy() if whole else output.to(torch.float32).numpy())
