"""Recurrent layers in a form that the dynamo exporter takes: of any number of steps, and of packed sequences.

It has no form for a packed sequence, and fixes the number of steps of every recurrence. So these layers name ONNX's own
operators while a module is traced, which take the length of each sequence, and at no other time; the check of the
export compares them with the module as it is.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Recurrent = tuple[Any, Any]

LAYERS = (nn.LSTM, nn.GRU, nn.RNN)


ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's place of each of ONNX's gates."""
PREFIX = "enginegate_onnx"


@dataclass
class _Tracing:
    """Whether a module is traced now, and then whether layers of plain sequences are replaced too."""

    packed: bool = False
    plain: bool = False


_tracing = _Tracing()


@dataclass
class _Padded:
    """Sequences `data` [samples, steps, features] of so many steps each, `lengths` [samples], int64."""

    data: Tensor
    lengths: Tensor


@contextmanager
def traceable_recurrence(module: nn.Module, *, plain: bool) -> Iterator[None]:
    """Have the recurrent layers of a module name ONNX's operators; those of plain sequences only where `plain`."""
    layers = [part for part in module.modules() if isinstance(part, LAYERS) and not part.proj_size]
    for layer in layers:
        for number in range(layer.num_layers):
            for name, weights in zip("wrb", _onnx_weights(layer, number), strict=True):
                layer.register_buffer(f"{PREFIX}_{name}{number}", weights, persistent=False)
    _tracing.packed, _tracing.plain = True, plain
    try:
        yield
    finally:
        _tracing.packed = _tracing.plain = False
        for layer in layers:
            for name in [name for name, _ in layer.named_buffers() if name.startswith(PREFIX)]:
                delattr(layer, name)


def _onnx_weights(layer: nn.RNNBase, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The weights of one layer as ONNX has them: of inputs, of states, and both biases; first axis the directions."""
    directions = 2 if layer.bidirectional else 1
    order = ORDERS[_operator(layer)]

    def ordered(tensor: Tensor) -> Tensor:
        gates = tensor.detach().chunk(len(order))
        return torch.cat([gates[place] for place in order])

    own = [[ordered(w) for w in layer.all_weights[number * directions + way]] for way in range(directions)]
    inputs, states = (torch.stack([weights[place] for weights in own]) for place in (0, 1))
    biases = torch.stack([torch.cat([*weights[2:]]) for weights in own]) if layer.bias else None
    return inputs, states, biases


def _operator(layer: nn.RNNBase) -> str:
    return layer.mode.partition("_")[0]


def prepare_recurrence() -> None:
    """Put functions that `traceable_recurrence` can switch in torch's place, before user code imports them."""
    if getattr(rnn.pack_padded_sequence, "is_switched", False):
        return
    for name, stand_in in (("pack_padded_sequence", _pack), ("pad_packed_sequence", _pad)):
        setattr(rnn, name, _switched(getattr(rnn, name), stand_in))
    for layer in LAYERS:
        layer.forward = _layer_forward(layer.forward)  # type: ignore[method-assign]


def _switched(original: Callable[..., Any], stand_in: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (stand_in if _tracing.packed else original)(*args, **kwargs)

    call.is_switched = True  # type: ignore[attr-defined]
    return call


def _pack(
    input: Tensor,  # noqa: A002 - as torch calls it
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,  # noqa: ARG001 - the order of samples is kept either way
) -> _Padded:
    data = input if batch_first else input.transpose(0, 1)
    return _Padded(data, torch.as_tensor(lengths).to(data.device, torch.int64))


def _pad(
    sequence: _Padded,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    data, steps = sequence.data, sequence.data.shape[1]
    if padding_value:
        data = torch.where(_is_within(sequence.lengths, steps).unsqueeze(-1), data, padding_value)
    if total_length is None:  # as long as the longest
        longest = cast("int", sequence.lengths.max().item())
        torch._check(longest >= 1)  # type: ignore[no-untyped-call] # noqa: SLF001 - torch's own documented way
        torch._check(longest <= steps)  # type: ignore[no-untyped-call] # noqa: SLF001 - as above
        data = data.narrow(1, 0, longest)
    elif total_length is not steps and total_length != steps:
        data = nn.functional.pad(data, (0, 0, 0, total_length - steps), value=padding_value)
    return data if batch_first else data.transpose(0, 1), sequence.lengths


def _is_within(lengths: Tensor, steps: int) -> Tensor:
    return torch.arange(steps, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def _layer_forward(original: Callable[..., Recurrent]) -> Callable[..., Recurrent]:
    @functools.wraps(original)
    def forward(self: nn.RNNBase, input: Any, hx: Any = None) -> Recurrent:  # noqa: A002 - as torch calls it
        if isinstance(input, _Padded):
            output, state = _named_operators(self, input.data.transpose(0, 1), input.lengths.to(torch.int32), hx)
            return _Padded(output.transpose(0, 1), input.lengths), state
        if not _tracing.plain or input.ndim < 3 or self.proj_size:  # noqa: PLR2004 - steps, samples and features
            return original(self, input, hx)
        output, state = _named_operators(self, input.transpose(0, 1) if self.batch_first else input, None, hx)
        return output.transpose(0, 1) if self.batch_first else output, state

    return forward


def _named_operators(layer: nn.RNNBase, data: Tensor, lengths: Tensor | None, hx: Any) -> Recurrent:
    """All layers of a recurrence on [steps, samples, features], each an operator of ONNX; its outputs and states."""
    directions = 2 if layer.bidirectional else 1
    kind = _operator(layer)
    given = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
    attributes["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if layer.mode == "RNN_RELU":
        attributes["activations"] = ["Relu"] * directions
    states: list[list[Tensor]] = []
    for number in range(layer.num_layers):
        steps, samples = data.shape[:2]
        weights = [getattr(layer, f"{PREFIX}_{name}{number}") for name in "wrb"]
        ways = slice(number * directions, (number + 1) * directions)
        state = [directions, samples, layer.hidden_size]
        shapes = [[steps, *state], *[state] * (2 if kind == "LSTM" else 1)]
        output, *last = torch.onnx.ops.symbolic_multi_out(
            kind,
            [data, *weights, lengths, *(part[ways] for part in given)],
            attributes,
            dtypes=[data.dtype] * len(shapes),
            shapes=shapes,
        )
        states.append(list(last))
        data = output.transpose(1, 2).flatten(2)
    joined = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    return data, joined if kind == "LSTM" else joined[0]
