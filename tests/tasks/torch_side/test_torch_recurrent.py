from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from tasks.torch_side.torch_recurrent import PREFIX, prepare_recurrence, traceable_recurrence

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    prepare_recurrence()
    return


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_layer_is_what_it_was_when_it_is_not_traced(kind: type[nn.RNNBase]) -> None:
    layer, x = kind(3, 5, batch_first=True), torch.randn(2, 7, 3)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 4]), batch_first=True)
    before, (inside, _) = layer(x)[0], nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True)
    with traceable_recurrence(layer, plain=False):
        assert any(name.startswith(PREFIX) for name, _ in layer.named_buffers())
        assert torch.allclose(layer(x)[0], before, atol=1e-6), "a layer of fixed steps stays as it is"
    assert not list(layer.named_buffers())
    assert torch.allclose(layer(x)[0], before, atol=1e-6)
    assert torch.allclose(inside[1, :4], before[1, :4], atol=1e-6)


def test_functions_are_replaced_once() -> None:
    first = nn.utils.rnn.pack_padded_sequence, nn.LSTM.forward
    prepare_recurrence()
    assert (nn.utils.rnn.pack_padded_sequence, nn.LSTM.forward) == first
