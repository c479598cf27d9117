"""A stand-in of every supported release of TensorRT, installed."""

from __future__ import annotations

import pytest

from tests.tasks.backends.fake_tensorrt import FakeTensorrt, install
from tests.tasks.backends.tensorrt_api.recording import RELEASES


@pytest.fixture(params=RELEASES)
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTensorrt:
    """Each release in turn; `import tensorrt` finds it, and so does polygraphy."""
    fake = FakeTensorrt(request.param)
    install(monkeypatch, fake)
    return fake
