from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tasks.sources.interface import ModuleRequest
from tasks.timings import PytorchForm
from tasks.torch_side.torch_module import PositionalModule
from tasks.torch_side.torch_timing import timed_call
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Careless(torch.nn.Module):
    """Keeps what it was given, and writes over it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(features.max()))
        return features.mul_(0.5)


def test_a_module_that_writes_into_its_input_is_timed_on_the_same_values_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ModuleRequest(folder=tmp_path, spec=tiny_spec(), weights=None)
    careless = Careless()
    module = PositionalModule(careless, request)
    monkeypatch.setattr("tasks.torch_side.torch_timing._module", lambda *_: (module, module))
    run = timed_call(request, PytorchForm.EAGER_FP32, {"features": np.ones((2, 4), np.float32)}, on_gpu=False)
    for _ in range(3):
        run()
    assert careless.seen == [1.0] * 4
